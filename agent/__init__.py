"""weldwatch's agent: the light runtime of a weld camera station. It never loads TensorFlow.

The journey of one image, one way and no way back:

    source ─Frame─▶ preprocess ─array─▶ session ─outputs─▶ decide ─▶ Result ─▶ ledger commit ─▶ source.release
                    (bundle)            (onnxruntime)      (bundle)            (durable)        (archive/delete)
                                                                                   │
                                                 shippers: JSON files · MQTT ◀─────┘  each with its own cursor

The ledger is the only truth. A source lets go of an image after the commit; a shipper moves its cursor after the
file is renamed or the broker has acknowledged. Kill the process anywhere, and a restart goes on from the ledger.

Rooms, from the command line down: ``cli`` > ``app`` > ``inspection | delivery | sources | demo`` > ``model`` >
``bundle | ledger`` > ``ports`` > the leaves (``result``, ``health``, ``config``, ``image``, ``frame``, ``clock``,
``errors``, ``logs``). A room imports only rooms below it; import-linter holds that in the test command.
"""

import os

# onnxruntime's Linux wheels report to their maker over the network unless this is set before the first import. Nothing
# leaves a station that its owner did not name.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
