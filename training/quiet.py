"""TensorFlow, loaded without its announcements.

Its C++ side writes to file descriptor 2 before it reads TF_CPP_MIN_LOG_LEVEL, so a person who made one typing error
would see three lines of noise above the line that matters. Invariant: when loading fails, everything held back is
shown.
"""

from __future__ import annotations

import os
import sys
import tempfile


def load_tensorflow() -> None:
    """Import TensorFlow and Keras with stderr held back. ImportError passes on, after what was held back."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            # The first operation starts the devices, which announce themselves too.
            tf.constant(0.0)
            keras.utils.set_random_seed(0)
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
