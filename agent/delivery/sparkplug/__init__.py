"""Results for SCADA, as a device of a Sparkplug B 3.0 edge node.

SparkplugSink ── the shipper's: what to reject, when to send a result alone
  └─ EdgeNode ── keeps one Session up: brokers in turn, primary host, births, death
       └─ Session ── from CONNECT to its end: ``seq``, births, data, and what the broker hands back of them
            ├─ metrics ── a result as metrics      payload ── metrics as bytes
            └─ memory ── what outlives a session   host ── is the primary host there
"""

from __future__ import annotations

from agent.delivery.sparkplug.sink import SparkplugSink, probe

__all__ = ["SparkplugSink", "probe"]
