"""The examples for consumers, as they stand in docs/connect, against a real station and a real broker."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT
from tests.support import toml
from tests.support.bundles import flat_png
from tests.support.mosquitto import Mosquitto
from tests.support.station import Station, until

EXAMPLES = ROOT / "docs" / "connect"
ROUNDS, FRAMES = 4, 15
PERSISTENT = ("persistence true", "autosave_on_changes true", "autosave_interval 1", "max_queued_messages 0")


class Consumer:
    """One of the examples that take results, started as its page says."""

    def __init__(self, folder: Path, listen: list[str], report: list[str], add: list[str], port: int) -> None:
        self.folder, self._listen, self._report, self._add = folder, listen, report, add
        self._environment = {**os.environ, "BROKER": "127.0.0.1", "PORT": str(port)}

    def start(self) -> subprocess.Popen[bytes]:
        with (self.folder / "consumer.log").open("ab") as log:
            return subprocess.Popen(self._listen, cwd=self.folder, env=self._environment, stdout=log, stderr=log)

    def report(self) -> tuple[int, str]:
        done = self._run(self._report)
        return done.returncode, done.stdout

    def add(self, *files: Path) -> None:
        done = self._run([*self._add, *map(str, files)])
        assert done.returncode == 0, done.stderr

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=60, check=False
        )


def python(folder: Path, port: int) -> Consumer:
    example = [sys.executable, "-u", str(EXAMPLES / "never_miss_a_part.py")]
    listen = [*example, "listen", "--host", "127.0.0.1", "--port", str(port)]
    return Consumer(folder, listen, [*example, "report"], [*example, "add"], port)


def shell(folder: Path, port: int) -> Consumer:
    example = ["bash", str(EXAMPLES / "never_miss_a_part.sh")]
    return Consumer(folder, [*example, "listen"], [*example, "report"], [*example, "add"], port)


def rows(folder: Path, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "parts.sqlite3")) as table:
        return table.execute(query).fetchall()


def inbox(folder: Path) -> list[dict[str, Any]]:
    """Whole lines of the shell's inbox; a kill may have cut one."""
    found = []
    for line in (folder / "inbox.jsonl").read_bytes().splitlines() if (folder / "inbox.jsonl").exists() else ():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", lines=PERSISTENT) as running:
        yield running


def station_at(root: Path, port: int) -> Station:
    """Names of frames are part and frame; gray 200 is bright, so the test bundle calls it a defect."""
    return Station(
        root / "station",
        mqtt={"host": "127.0.0.1", "port": port, "keepalive_s": 2},
        sources=[
            {
                "type": "folder", "name": "captures", "path": str(root / "station" / "captures"), "settle_s": 0.0,
                "name_pattern": r"(?P<part_id>[^_]+)_(?P<frame>\d+)",
            }
        ],
    )  # fmt: skip


def end(process: subprocess.Popen[bytes], how: signal.Signals) -> int:
    process.send_signal(how)
    return process.wait(20)


def test_the_python_consumer_misses_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    """Killed in each round while frames arrive, and the broker restarted in one: all is there, once."""
    station, consumer = station_at(tmp_path, broker.port), python(tmp_path, broker.port)
    with station.running():
        for number in range(ROUNDS):
            process = consumer.start()
            try:
                # The first session must be there before the first result is.
                if number == 0:
                    until(lambda: "listening to" in (tmp_path / "consumer.log").read_text(), "the consumer")
                for frame in range(FRAMES):
                    station.put(f"A{number}_{frame:04d}.png", flat_png(200 if frame == 3 and number else 20))
                if number == 1:
                    broker.stop()
                    broker.start()
                wanted = FRAMES * number
                until(lambda w=wanted: len(rows(tmp_path, "SELECT 1 FROM results")) > w, "a result of this round")
            finally:
                end(process, signal.SIGKILL)
        made = station.wait_for(ROUNDS * FRAMES)
        log = tmp_path / "consumer.log"
        before = log.read_text().count("listening to")
        process = consumer.start()
        # All may be there already, and a SIGTERM before it listens would find no handler yet.
        until(lambda: log.read_text().count("listening to") > before, "the consumer")
        until(lambda: len(rows(tmp_path, "SELECT 1 FROM results")) == len(made), "everything to be there")
        assert end(process, signal.SIGTERM) == 0
    kept = rows(tmp_path, "SELECT result_id, body FROM results ORDER BY sequence")
    assert [one for one, _ in kept] == [one["result_id"] for one in made]
    assert [json.loads(body) for _, body in kept] == made
    assert rows(tmp_path, "SELECT * FROM odd") == []
    verdicts = {part: verdict for part, _, verdict in rows(tmp_path, "SELECT * FROM parts")}
    assert verdicts == {"A0": "OK", "A1": "NotOK", "A2": "NotOK", "A3": "NotOK"}
    code, said = consumer.report()
    assert (code, said) == (0, "plant/site/area/line/cam-07: 3 NotOK\nplant/site/area/line/cam-07: 57 OK\n")


def test_the_shell_consumer_misses_nothing_unsaid(tmp_path: Path, broker: Mosquitto) -> None:
    """Killed in each round; what that costs is said by the report, and the daily log fills it."""
    station, consumer = station_at(tmp_path, broker.port), shell(tmp_path, broker.port)
    with station.running():
        for number in range(ROUNDS):
            process = consumer.start()
            try:
                if number == 0:
                    until(lambda: "SUBACK to line-shell" in broker.log(), "the consumer")
                for frame in range(FRAMES):
                    station.put(f"A{number}_{frame:04d}.png", flat_png(20))
                wanted = FRAMES * number / 2
                until(lambda w=wanted: len(inbox(tmp_path)) > w, "some result of this round")
            finally:
                end(process, signal.SIGKILL)
        made = station.wait_for(ROUNDS * FRAMES)
        process = consumer.start()
        until(lambda: any(one["sequence"] == len(made) for one in inbox(tmp_path)), "the last one to be there")
        assert end(process, signal.SIGTERM) in (0, -signal.SIGTERM)
    known = {one["sequence"] for one in inbox(tmp_path)}
    code, said = consumer.report()
    whole = known == {one["sequence"] for one in made}
    assert code == (0 if whole else 1), said
    assert ("MISSING" in said) is not whole
    consumer.add(*station.results.glob("*.jsonl"))
    assert consumer.report() == (0, f"cam-07: {len(made)} OK\n")


@pytest.mark.parametrize("kind", [python, shell])
def test_a_gap_is_said_and_filled_from_the_daily_log(kind: Any, tmp_path: Path) -> None:
    station = Station(tmp_path / "station")
    for frame in range(12):
        station.put(f"A_{frame:04d}.png", flat_png(20))
    assert station.once().returncode == 0
    (log,) = station.results.glob("*.jsonl")
    lines = log.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(
        b"".join([*lines[:3], *lines[:2], *lines[7:10], *lines[11:]])
    )  # 4 to 7 and 11 are missing, two twice
    consumer = kind(tmp_path, 0)
    consumer.add(cut)
    code, said = consumer.report()
    assert code == 1
    assert "MISSING 4 to 7" in said
    assert "MISSING 11 to 11" in said
    consumer.add(log, log)
    code, said = consumer.report()
    assert (code, said.split(": ")[1]) == (0, "12 OK\n")


def test_what_is_no_result_is_kept_for_a_person(tmp_path: Path) -> None:
    consumer = python(tmp_path, 0)
    odd = [
        b"not json",
        b'{"schema": "weldwatch.result/2"}',
        b"[1]",
        b'{"schema": "weldwatch.result/1"}',
        b"\xff",
        b"null",
    ]
    (tmp_path / "odd.jsonl").write_bytes(b"\n".join(odd))
    consumer.add(tmp_path / "odd.jsonl")
    assert [body.strip() for (body,) in rows(tmp_path, "SELECT body FROM odd")] == odd
    code, said = consumer.report()
    assert code == 1
    assert f"{len(odd)} messages were no results" in said


# --- Node-RED: its function nodes, in the JavaScript engine that it runs on ---

FLOW = json.loads((EXAMPLES / "node_red_flow.json").read_text(encoding="utf-8"))
_HARNESS = """
const lines = require('fs').readFileSync(0, 'utf8').trim().split('\\n').map(line => JSON.parse(line));
const store = {}, out = [];
const flow = {
    get: key => store[key] && JSON.parse(store[key]),
    set: (key, value) => store[key] = JSON.stringify(value),
};
const node = {warn: line => out.push({warned: line}), status: shown => out.push({shown})};
const work = new Function('msg', 'flow', 'node', process.argv[1]);
for (const payload of lines) { out.push({sent: work({topic: 't', payload}, flow, node)}); }
console.log(JSON.stringify(out));
"""


def function(name: str) -> str:
    (found,) = (one["func"] for one in FLOW if one.get("name") == name)
    return str(found)


def through(name: str, payloads: list[Any]) -> list[dict[str, Any]]:
    """What the node says and sends, in order."""
    text = "\n".join(map(json.dumps, payloads))
    done = subprocess.run(
        ["node", "-e", _HARNESS, function(name)], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def result(sequence: int, ledger: str = "L") -> dict[str, Any]:
    return {"schema": "weldwatch.result/1", "ledger_id": ledger, "sequence": sequence, "station": {"name": "cam-07"}}


def test_the_flow_can_be_imported() -> None:
    ids = [one["id"] for one in FLOW]
    assert len(set(ids)) == len(ids)
    kinds = {one["id"]: one["type"] for one in FLOW}
    for one in FLOW:
        assert all(target in kinds for wire in one.get("wires", []) for target in wire), one
        assert len(one.get("wires", [])) == one.get("outputs", len(one.get("wires", []))), one
        assert one.get("z", "ww-tab") == "ww-tab"
        assert kinds.get(one.get("broker"), "mqtt-broker") == "mqtt-broker" or one["type"] == "mqtt-broker"
    (broker,) = (one for one in FLOW if one["type"] == "mqtt-broker")
    assert (broker["protocolVersion"], broker["cleansession"], broker["autoUnsubscribe"]) == ("5", False, False)
    assert int(broker["sessionExpiry"]) >= 86_400
    assert all(one["qos"] == "1" and one["datatype"] == "json" for one in FLOW if one["type"] == "mqtt in")
    (switch,) = (one for one in FLOW if one["type"] == "switch")
    assert [rule.get("v", rule["t"]) for rule in switch["rules"]] == ["OK", "NotOK", "else"]


def test_the_flow_takes_each_once_and_tells_gaps() -> None:
    told = through(
        "each once, gaps told",
        [result(5), result(6), result(5), result(9), result(7), result(7), result(10), result(1, "M"), {"x": 1}],
    )
    passed = [
        (one["sent"][0]["payload"]["sequence"], bool(one["sent"][1])) if one.get("sent") else None for one in told
    ]
    assert passed == [(5, False), (6, False), None, (9, True), (7, False), None, (10, False), (1, False), None, None]
    assert told[3]["sent"][1]["payload"] == {"station": {"name": "cam-07"}, "ledger_id": "L", "first": 7, "last": 8}
    assert told[8] == {"warned": "not a result: t"}


def test_the_flow_sounds_an_alarm() -> None:
    online = {"state": "online", "inspecting": True, "problems": []}
    trouble = [
        {**online, "problems": ["disk_low"]},
        {**online, "inspecting": False},
        {**online, "state": "offline"},
        {},
    ]
    told = [one["sent"] for one in through("is the station sound?", [online, *trouble]) if "sent" in one]
    assert told[0] is None
    assert all(told[1:])
    assert len(told) == 5


# --- Ignition: under a stand-in of its scripting functions ---


class Ignition:
    """`system`, as far as the script uses it, over SQLite."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", check_same_thread=False)
        self.warned: list[str] = []
        self.db = self.util = self
        self.jsonEncode, self.jsonDecode = json.dumps, json.loads

    def runPrepUpdate(self, query: str, row: list[Any], database: str) -> int:  # noqa: N802  # Ignition's name
        assert database == "plant"
        return self.connection.execute(query, row).rowcount

    def runScalarPrepQuery(self, query: str, row: list[Any], database: str) -> Any:  # noqa: N802  # Ignition's name
        return self.connection.execute(query, row).fetchone()[0]

    def getLogger(self, name: str) -> Any:  # noqa: N802  # Ignition's name
        return self

    def warn(self, line: str) -> None:
        self.warned.append(line)

    def count(self) -> int:
        return int(self.connection.execute("SELECT count(*) FROM weld_results").fetchone()[0])


class Response:
    status = 200

    def setStatus(self, status: int) -> None:  # noqa: N802  # the servlet's name
        self.status = status


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Ten results of a real station."""
    station = Station(tmp_path_factory.mktemp("results"))
    for frame in range(10):
        station.put(f"A_{frame:04d}.png", flat_png(20 * frame))
    assert station.once().returncode == 0
    return station.lines()


@pytest.fixture
def ignition() -> tuple[Ignition, dict[str, Any]]:
    """The stand-in with the table that the script asks for, and what the script defines."""
    text = (EXAMPLES / "ignition_weldwatch.py").read_text(encoding="utf-8")
    system = Ignition()
    script: dict[str, Any] = {"system": system}
    exec(compile(text, "weldwatch", "exec"), script)  # noqa: S102  # as Ignition runs a project library script
    (create,) = (part for part in script["__doc__"].split("\n\n") if "CREATE TABLE" in part)
    system.connection.execute(create)
    return system, script


def test_the_ignition_script_stores_each_result_once_and_logs_gaps(
    results: list[dict[str, Any]], ignition: tuple[Ignition, dict[str, Any]]
) -> None:
    system, script = ignition
    news = []
    for one in [*results[:4], *results[2:4], *results[6:]]:
        answer = script["posted"]({"data": one, "servletResponse": Response()})
        assert answer["json"]["result_id"] == one["result_id"]
        news.append(answer["json"]["new"])
    assert news == [True] * 4 + [False] * 2 + [True] * 4
    assert system.warned == ["plant/site/area/line/cam-07: MISSING 5 to 6; they are in the daily log of the station"]
    stored = system.connection.execute("SELECT body FROM weld_results ORDER BY sequence").fetchall()
    assert [json.loads(body) for (body,) in stored] == [*results[:4], *results[6:]]
    refused = Response()
    assert "error" in script["posted"]({"data": {"schema": "other"}, "servletResponse": refused})["json"]
    assert refused.status == 422

    class Value:
        value = json.dumps(results[4])
        quality = type("Quality", (), {"isGood": staticmethod(lambda: True)})

    script["tag_changed"](True, Value())
    script["tag_changed"](False, Value())
    assert system.connection.execute("SELECT count(*) FROM weld_results").fetchone() == (9,)


def test_the_stations_webhook_fills_ignitions_table(tmp_path: Path, ignition: tuple[Ignition, dict[str, Any]]) -> None:
    """The database is away for the first three posts: the station keeps them and comes again, in order."""
    system, script = ignition
    away = iter([True] * 3)

    class WebDev(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name that the server looks for
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            response = Response()
            if next(away, False):
                response.setStatus(500)
            else:
                script["posted"]({"data": body, "servletResponse": response})
            self.send_response(response.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = http.server.HTTPServer(("127.0.0.1", 0), WebDev)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/system/webdev/plant/weldwatch"
        station = Station(tmp_path, webhook={"url": url})
        with station.running():
            for frame in range(10):
                station.put(f"A_{frame:04d}.png", flat_png(20))
            until(lambda: system.count() == 10, "ten rows")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    rows = system.connection.execute("SELECT result_id FROM weld_results ORDER BY rowid").fetchall()
    assert [one for (one,) in rows] == [one["result_id"] for one in station.lines()]
    assert system.warned == []


def test_telegraf_reads_fields_that_a_result_has(results: list[dict[str, Any]]) -> None:
    settings = toml.load(EXAMPLES / "telegraf.toml")
    (source,) = settings["inputs"]["mqtt_consumer"]
    assert (source["persistent_session"], source["qos"]) == (True, 1)
    (reading,) = source["json_v2"]
    for path in [reading["timestamp_path"], *(one["path"] for one in (*reading["tag"], *reading["field"]))]:
        value: Any = results[0]
        for step in path.split("."):
            value = value[step]
        assert value is not None, path
