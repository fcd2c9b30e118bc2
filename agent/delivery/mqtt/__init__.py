"""Results, status, health and commands over MQTT. ``connection`` is the one door to paho.

MqttSink ── the shipper's: window, reason codes, what to reject
  ├─ Keeper ── keeps one Connection up: backoff, causes, birth, last will, goodbye
  │    ├─ Upkeep ── how long connections last and who else has our name, on health
  │    ├─ Brokers ── which of several, and the way back to a better one
  │    └─ Connection ── from CONNECT to its end; never reused, so no queue of the library outlives it
  ├─ Audience ── what a broken connection leaves in doubt; ``delivery.suspect``: which result it is that breaks them
  ├─ Inbox ── commands in, answers out
  └─ Aside ── what is worth something only now: ``…/live``
"""

from __future__ import annotations

from agent.delivery.mqtt.sink import MqttSink
from agent.delivery.mqtt.tools import Subscriber, probe

__all__ = ["MqttSink", "Subscriber", "probe"]
