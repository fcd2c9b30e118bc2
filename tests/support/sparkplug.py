"""A host application that follows the Sparkplug specification to the letter, on an independent decoder.

It knows nothing of the agent's own encoder: Google's protobuf runtime reads the bytes by Eclipse Tahu's definition, as
another project packs it. What the specification forbids is noted as a fault, and rebirths are asked for as it says.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from sparkplub_b_packets.core.sparkplug_b_pb2 import Payload

INT32, INT64, DOUBLE, BOOLEAN, STRING, DATE_TIME = 3, 4, 10, 11, 12, 13
_FIELD = {
    INT32: "int_value", INT64: "long_value", DOUBLE: "double_value", BOOLEAN: "boolean_value",
    STRING: "string_value", DATE_TIME: "long_value",
}  # fmt: skip
_BORN_ONCE = ("station/", "model/", "schema", "labels", "ledger_id", "simulated")  #: not sent again while unchanged


def value_of(metric: Any, datatype: int) -> Any:
    """The value as its datatype reads it; None for null. Fails when it stands in another type's field."""
    kind = metric.WhichOneof("value")
    if metric.is_null:
        assert kind is None, f"{metric.name} is null and has a value"
        return None
    assert kind == _FIELD[datatype], f"{metric.name}: datatype {datatype} in {kind}"
    value = getattr(metric, kind)
    if datatype in (INT32, INT64):
        bits = 32 if datatype == INT32 else 64
        return value - (1 << bits) if value >> (bits - 1) else value
    return value


@dataclass
class Message:
    verb: str
    seq: int | None
    metrics: dict[str, Any]
    historical: bool
    timestamps: set[int]
    device: bool
    retained: bool
    qos: int


@dataclass
class Node:
    """An edge node with one device, as the host has built it from what it heard."""

    online: bool = False
    device_online: bool = False
    birth_count: int | None = None
    seq: int | None = None
    types: dict[str, int] = field(default_factory=dict)
    device_types: dict[str, int] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)  #: the present ones of the device


class Host:
    """``results`` holds every result rebuilt from metrics, by its id; ``faults`` what broke the specification.

    ``lenient_gaps``: a gap in ``seq`` may happen (a broker was killed with messages in it) and is answered by asking
    for a rebirth; otherwise it is a fault.
    """

    def __init__(
        self,
        port: int,
        group: str,
        node: str,
        device: str,
        *,
        host_id: str | None = None,
        lenient_gaps: bool = False,
        login: tuple[str, str] | None = None,
    ) -> None:
        self.port, self.prefix, self._node_id, self._device = port, f"spBv1.0/{group}", node, device
        self.ncmd = f"{self.prefix}/NCMD/{node}"
        self.host_id, self._lenient, self._login = host_id, lenient_gaps, login
        self.node = Node()
        self.messages: list[Message] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.order: list[int] = []  #: ``sequence`` of each result as it came
        self.historical: set[str] = set()
        self.live: set[str] = set()
        self.faults: list[str] = []
        self.rebirths_asked = 0
        self.changed = threading.Condition()
        self._asked_at = 0.0
        self._client: Client | None = None

    # --- its connection ---

    def start(self) -> Host:
        """Connect (clean session), subscribe, and say that it is online."""
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"host-{uuid.uuid4()}", protocol=MQTTv311, clean_session=True
        )
        client.reconnect_delay_set(1, 1)
        if self._login:
            client.username_pw_set(*self._login)
        subscribed = threading.Event()

        def connected(client: Client, *_: Any) -> None:
            with self.changed:
                self.node = Node()
            client.subscribe([(f"{self.prefix}/#", 1), ("spBv1.0/STATE/#", 1)])

        def ready(client: Client, *_: Any) -> None:
            if self.host_id:
                client.publish(self._state_topic, self._state(True), 1, True)
            subscribed.set()

        client.on_connect, client.on_subscribe, client.on_message = connected, ready, self._heard
        client.on_disconnect = lambda *_: self._new_will()
        self._client = client
        self._new_will()
        client.connect("127.0.0.1", self.port, keepalive=5)
        client.loop_start()
        assert subscribed.wait(10)
        return self

    @property
    def _state_topic(self) -> str:
        return f"spBv1.0/STATE/{self.host_id}"

    def _new_will(self) -> None:
        """Birth and will of one connection share a timestamp."""
        self._stamp = time.time_ns() // 1_000_000
        if self.host_id and self._client is not None:
            self._client.will_set(self._state_topic, self._state(False), 1, True)

    def _state(self, online: bool) -> bytes:
        return json.dumps({"online": online, "timestamp": self._stamp}).encode()

    def stop(self) -> None:
        """Go as the specification says: the death first."""
        if self._client is not None:
            if self.host_id:
                with contextlib.suppress(RuntimeError):  # not connected at present: there is nobody to tell
                    self._client.publish(self._state_topic, self._state(False), 1, True).wait_for_publish(5)
            self._client.disconnect()
            self._end()

    def kill(self) -> None:
        """Vanish without a word; the broker speaks the will."""
        if self._client is not None:
            self._client.loop_stop()
            sock: Any = self._client.socket()
            if sock is not None:
                sock.close()
            self._end()

    def _end(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.loop_stop()
            client.on_connect = client.on_subscribe = client.on_message = client.on_disconnect = None

    def command(self, *names: str, value: bool = True, retain: bool = False) -> None:
        """Send an NCMD that sets Boolean metrics."""
        payload = Payload(timestamp=time.time_ns() // 1_000_000)
        for name in names:
            payload.metrics.add(name=name, boolean_value=value, datatype=BOOLEAN)
        self.raw_command(payload.SerializeToString(), retain=retain)

    def raw_command(self, payload: bytes, *, retain: bool = False) -> None:
        assert self._client is not None
        self._client.publish(self.ncmd, payload, 0, retain)

    def until(self, condition: Callable[[], bool], timeout: float = 30.0) -> None:
        """Wait for something that a message brings about."""
        with self.changed:
            assert self.changed.wait_for(condition, timeout), (
                f"{len(self.results)} results, {self.node}, {[m.verb for m in self.messages][-8:]}, {self.faults[:5]}"
            )

    def verbs(self) -> list[str]:
        return [message.verb for message in self.messages]

    def __enter__(self) -> Host:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # --- what it hears ---

    def _heard(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        _, group_or_state, verb, *rest = message.topic.split("/")
        if group_or_state == "STATE" or verb in ("NCMD", "DCMD"):
            return
        with self.changed:
            try:
                self._take(verb, rest, message)
            except AssertionError as fault:
                self.faults.append(f"{verb}: {fault}")
            self.changed.notify_all()

    def _take(self, verb: str, rest: list[str], message: MQTTMessage) -> None:
        payload = Payload.FromString(message.payload)
        seq = payload.seq if payload.HasField("seq") else None
        self.messages.append(
            Message(
                verb,
                seq,
                {metric.name: metric for metric in payload.metrics},
                any(metric.is_historical for metric in payload.metrics),
                {metric.timestamp for metric in payload.metrics},
                len(rest) == 2,
                bool(message.retain),
                message.qos,
            )
        )
        assert rest == [self._node_id] + ([self._device] if verb[0] == "D" else []), f"on topic {message.topic}"
        assert not message.retain, "retained"
        assert payload.HasField("timestamp"), "no timestamp of the message"
        assert len({metric.name for metric in payload.metrics}) == len(payload.metrics), "a metric twice"
        assert all(metric.HasField("timestamp") for metric in payload.metrics), "a metric without a timestamp"
        if verb != "NDEATH":
            assert message.qos == 0, f"QoS {message.qos}"
            assert seq is not None, "no seq"
            assert 0 <= seq <= 255, f"seq {seq}"
        getattr(self, f"_{verb.lower()}")(payload)

    def _nbirth(self, payload: Any) -> None:
        metrics = {metric.name: metric for metric in payload.metrics}
        assert payload.seq == 0, f"seq {payload.seq}"
        assert metrics["bdSeq"].datatype == INT64, "datatype of bdSeq"
        rebirth = metrics["Node Control/Rebirth"]
        assert (rebirth.datatype, value_of(rebirth, BOOLEAN)) == (BOOLEAN, False), "Node Control/Rebirth"
        assert all(metric.datatype for metric in payload.metrics), "a metric without a datatype"
        self.node = Node(online=True, birth_count=value_of(metrics["bdSeq"], INT64), seq=0)
        self.node.types = {name: metric.datatype for name, metric in metrics.items()}

    def _next(self, payload: Any) -> bool:
        """Whether the message follows the one before; if not, ask for a rebirth."""
        node = self.node
        if not node.online or node.seq is None:
            self._ask()
            return False
        if payload.seq != (node.seq + 1) % 256:
            fault = f"seq {payload.seq} after {node.seq}"
            node.online = False
            self._ask()
            assert self._lenient, fault
            return False
        node.seq = payload.seq
        return True

    def _ask(self) -> None:
        if time.monotonic() - self._asked_at > 0.5:  # one is enough for a burst
            self._asked_at = time.monotonic()
            self.rebirths_asked += 1
            self.command("Node Control/Rebirth")

    def _dbirth(self, payload: Any) -> None:
        if not self._next(payload):
            return
        assert all(metric.datatype for metric in payload.metrics), "a metric without a datatype"
        assert not any(metric.is_historical for metric in payload.metrics), "a birth is the present"
        self.node.device_types = {metric.name: metric.datatype for metric in payload.metrics}
        self.node.values = {metric.name: value_of(metric, metric.datatype) for metric in payload.metrics}
        self.node.device_online = True
        if self.node.values.get("result_id"):
            self._rebuilt(dict(self.node.values), historical=False, count=False)

    def _ddata(self, payload: Any) -> None:
        if not self._next(payload):
            return
        node = self.node
        assert node.device_online, "data before the birth of the device"
        values = {}
        for metric in payload.metrics:
            assert metric.name in node.device_types, f"{metric.name} was never born"
            assert not metric.HasField("datatype"), f"{metric.name}: a datatype in data"
            values[metric.name] = value_of(metric, node.device_types[metric.name])
        flags = {metric.is_historical for metric in payload.metrics}
        assert len(flags) <= 1, "historical and live in one message"
        if flags == {True}:
            assert len({metric.timestamp for metric in payload.metrics}) == 1, "one result, one time"
            self._rebuilt(values, historical=True)
            return
        for name, value in values.items():
            if name.startswith(_BORN_ONCE) and name != "schema":
                assert node.values.get(name) != value, f"{name} did not change"
        node.values |= values
        if "sequence" in values:
            assert payload.metrics[-1].name == "sequence", "sequence comes last"
            labels = json.loads(node.values["labels"])
            present = {k: v for k, v in node.values.items() if not k.startswith("probability/") or k[12:] in labels}
            self._rebuilt(present, historical=False)

    def _ddeath(self, payload: Any) -> None:
        if self._next(payload):
            self.node.device_online = False

    def _ndeath(self, payload: Any) -> None:
        assert not payload.HasField("seq"), "seq in a death of the node"
        (metric,) = payload.metrics
        assert (metric.name, metric.datatype) == ("bdSeq", INT64), "bdSeq"
        if value_of(metric, INT64) == self.node.birth_count:
            self.node = Node()

    def _rebuilt(self, values: dict[str, Any], *, historical: bool, count: bool = True) -> None:
        result = rebuilt(values)
        known = self.results.setdefault(result["result_id"], result)
        assert known == result, f"the same id, another result: {known} {result}"
        if count:
            self.order.append(result["sequence"])
            (self.historical if historical else self.live).add(result["result_id"])


def rebuilt(values: dict[str, Any]) -> dict[str, Any]:
    """A result as JSON has it, from its metrics alone."""
    from datetime import datetime, timezone

    result: dict[str, Any] = {}
    probability = {}
    for name, value in values.items():
        if name.startswith("probability/"):
            probability[name.partition("/")[2]] = value
            continue
        at = result
        *folders, last = name.split("/")
        for folder in folders:
            at = at.setdefault(folder, {})
        at[last] = value
    for name in ("labels", "reasons"):
        result[name] = json.loads(result[name])
    for name in ("captured_at", "created_at"):
        moment = datetime.fromtimestamp(result[name] / 1000, timezone.utc)
        result[name] = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
    flat = [probability[label] for label in result["labels"]]
    result["probability"] = None if None in flat else flat
    return result
