"""Metrics as Prometheus fetches them from a station, and what is built on them: alerts and the board."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.app import metrics, scraping
from agent.app.gauges import HealthReport
from agent.config import MetricsConfig
from agent.health import Health
from tests.docs import source
from tests.docs.pages import ROOT, blocks, codes, section
from tests.support import certificates
from tests.support.bundles import flat_png
from tests.support.ports import free_port
from tests.support.station import Station, until

DEPLOY = ROOT / "deploy"


def promtool(*arguments: str | Path, text: str | None = None) -> None:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A station with a good, a bad and a broken image, an away broker and an away second folder."""
    root, port = tmp_path_factory.mktemp("metrics"), free_port()
    tls = {"ca": str(certificates.authority(root / "ca").ca)}
    station = Station(root, metrics={"port": port}, mqtt={"host": "127.0.0.1", "port": free_port(), "tls": tls})
    folder = {"settle_s": 0.05, "incomplete_s": 0.0, "type": "folder"}
    station.settings["sources"] = [
        {**folder, "name": "captures", "path": str(station.captures)},
        {**folder, "name": "away", "path": str(root / "away")},
    ]
    station.write()
    for name, data in (("dark.png", flat_png(10)), ("light.png", flat_png(250)), ("cut.png", flat_png(99)[:50])):
        station.put(name, data)

    def there() -> bool:
        try:
            return all(part in scrape(port) for part in wanted)
        except urllib.error.URLError:  # it does not listen yet
            return False

    with station.running():
        station.wait_for(3)
        wanted = (
            'weldwatch_delivered_total{sink="files"} 3.0',
            'weldwatch_problem{code="folder_missing"',
            'weldwatch_certificate_not_after_timestamp_seconds{certificate="mqtt.tls.ca"}',
        )
        until(there, "three results and a certificate in the metrics")
        yield scrape(port)


def test_promtool_finds_nothing_to_blame(scraped: str) -> None:
    promtool("check", "metrics", text=scraped)


def test_values_are_what_happened(scraped: str) -> None:
    found = samples(scraped)
    inspected = {labels: value for (name, labels), value in found.items() if name == "weldwatch_inspected_total"}
    told = {dict(labels)["evaluation"]: value for labels, value in inspected.items()}
    assert told == {"OK": 1, "NotOK": 1, "NotDecidable": 1}
    assert {(dict(labels)["source"], dict(labels)["model"]) for labels in inspected} == {
        ("captures", "brightness 1.0.0 fp32")
    }
    assert found["weldwatch_image_errors_total", ()] == 1
    assert found["weldwatch_not_decidable_total", (("reason", "unreadable_image"),)] == 1
    assert found["weldwatch_undelivered_results", (("sink", "mqtt"),)] == 3
    assert found["weldwatch_oldest_undelivered_timestamp_seconds", (("sink", "mqtt"),)] > 1.7e9
    assert found["weldwatch_source_up", (("source", "captures"),)] == 1
    assert found["weldwatch_source_up", (("source", "away"),)] == 0
    assert found["weldwatch_problem", (("code", "folder_missing"), ("source", "away"))] == 1
    assert found["weldwatch_stage_duration_seconds_count", (("stage", "inference"),)] == 2
    assert found["weldwatch_stage_duration_seconds_bucket", (("le", "10.0"), ("stage", "total"))] == 3
    assert found["weldwatch_results_free_bytes", ()] > 1e6
    assert found["weldwatch_inspecting", ()] == 1
    assert ("weldwatch_image_errors_total", ()) in found
    assert "process_resident_memory_bytes" in scraped


def test_a_client_that_goes_away_or_says_nothing_leaves_nothing_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scraping, "CLIENT_S", 0.1)
    port = free_port()
    served = metrics.Metrics(MetricsConfig(port=port), Health(), lambda: GAUGES, lambda: STATUS)
    served.start()
    until(lambda: can_connect(port), "the port")
    with socket.create_connection(("127.0.0.1", port)) as silent:
        assert silent.recv(1) == b"", "it is hung up on"
    with socket.create_connection(("127.0.0.1", port)) as gone:
        gone.sendall(b"GET /met")
        gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert "weldwatch_inspecting" in scrape(port)
    served.stop()
    assert capfd.readouterr().err == ""


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_promtool_likes_every_counter_that_there_is(tmp_path: Path) -> None:
    health = Health()
    for name in source.counters():
        health.count(name.replace("*", "mqtt"))
    registry = CollectorRegistry()
    registry.register(metrics.Metrics(MetricsConfig(), health, lambda: GAUGES, lambda: STATUS))
    promtool("check", "metrics", text=generate_latest(registry).decode())
    there = {name for name, _ in health.by_kind() if not name.startswith(metrics._LABELS_ALREADY)}
    assert len({metrics.counter_of(name)[0] for name in there}) == len(there)


def test_every_gauge_of_health_is_a_metric_or_said_not_to_be() -> None:
    """The page shows what the type has, and the schema is made from the type."""
    (shown,) = (json.loads(block) for block in blocks("topics.md", "json") if '"counters"' in block)
    jsonschema.validate(shown, json.loads((ROOT / "config/schemas/health.schema.json").read_text(encoding="utf-8")))
    assert list(shown) == list(HealthReport.__struct_fields__)
    assert set(shown) == set(metrics.GAUGES) | {"time", "counters", "not_decidable", "inference_ms"}


def test_every_metric_is_told(scraped: str) -> None:
    """In the table, or by the rule below it: the counter's own name."""
    by_rule = {f"weldwatch_{name}_total" for name in source.counters()}
    told = codes(section("topics.md", "Metrics")) | by_rule
    assert {name for name in names(scraped) if name.startswith("weldwatch_")} <= told
    assert {f"weldwatch_{name}_total" for name, _ in metrics.COUNTERS.values()} <= told


def names(text: str) -> set[str]:
    """Names as they are queried (a histogram by its base)."""
    found = set()
    for family in text_string_to_metric_families(text):
        found.add(f"{family.name}_total" if family.type == "counter" else family.name)
    return found


def test_an_unknown_counter_appears_under_its_own_name() -> None:
    assert metrics.counter_of("Odd-thing")[:2] == ("weldwatch_odd_thing", ())
    assert metrics.counter_of("webhook_delivered")[:2] == ("weldwatch_delivered", (("sink", "webhook"),))


# --- alerts and board ---


def test_the_alerts_are_valid_and_fire_when_they_should() -> None:
    promtool("check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    promtool("test", "rules", DEPLOY / "prometheus" / "weldwatch.rules.test.yml")


def board() -> list[str]:
    """Every query of the board, with what Grafana puts in put in."""
    panels = json.loads((DEPLOY / "grafana" / "weldwatch.json").read_text(encoding="utf-8"))["panels"]
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$station", ".*")
        for panel in panels
        for target in panel["targets"]
    ]


def alerts() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "weldwatch.rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("expression", [*board(), *alerts()])
def test_every_query_names_metrics_and_labels_that_exist(expression: str, scraped: str) -> None:
    there: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(scraped):
        for sample in family.samples:
            there.setdefault(sample.name, set()).update(sample.labels)
    # Prometheus' own; there was none; and not every machine can be asked.
    there |= {"up": set(), "weldwatch_dead_letters_total": {"sink"}, "weldwatch_clock_synchronized": set()}
    asked = re.findall(r"\b((?:weldwatch|process)_\w+|up)\b(?:\{([^}]*)\})?", expression)
    assert asked
    for name, matchers in asked:
        assert name in there
        labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        assert labels <= there[name] | {"job", "station"}
    assert set(re.findall(r"by \(([^)]*)\)", expression)) <= {"evaluation", "reason", "le, stage", "station"}


def test_every_query_is_promql(tmp_path: Path) -> None:
    rules = [{"record": f"board:{number}", "expr": expression} for number, expression in enumerate(board())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    promtool("check", "rules", file)


def test_the_board_uses_the_data_source_that_is_provided() -> None:
    provided = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    text = (DEPLOY / "grafana" / "weldwatch.json").read_text(encoding="utf-8")
    assert set(re.findall(r'"uid": "([^"]+)"', text)) == {"weldwatch", provided["datasources"][0]["uid"]}


# --- serving ---

STATUS = {"agent": "0", "inspecting": True, "problems": [], "sources": [],
          "bundle": dict.fromkeys(("name", "version", "variant", "device"), "x")}  # fmt: skip
GAUGES: dict[str, Any] = {"backlog": 1, "ledger_depth": {}, "oldest_undelivered": {"mqtt": None}, "disk_free_mb": None,
                          "state_free_mb": 2, "certificates": {}, "clock_synchronized": None}  # fmt: skip


def test_a_port_that_is_taken_is_a_problem_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_AGAIN_S", 0.05)
    health = Health()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        served = metrics.Metrics(MetricsConfig(port=port), health, lambda: GAUGES, lambda: STATUS)
        served.start()
        until(lambda: health.problems(), "the problem")
        assert str(port) in health.problems()["metrics_unavailable"]
    until(lambda: not health.problems(), "its end")  # cleared once it listens
    assert "weldwatch_state_free_bytes 2.097152e+06" in scrape(port)
    served.stop()
    with pytest.raises(OSError, match="refused"):
        scrape(port)


@pytest.mark.quiet
def test_a_hundred_scrapes_look_once_and_a_silent_client_holds_up_nobody() -> None:
    looks = []

    def gauges() -> dict[str, Any]:
        looks.append(1)
        return GAUGES

    port = free_port()
    served = metrics.Metrics(MetricsConfig(port=port), Health(), gauges, lambda: STATUS)
    served.start()

    def connect() -> socket.socket | None:
        try:
            return socket.create_connection(("127.0.0.1", port), 5)
        except ConnectionRefusedError:
            return None

    silent = until(connect, "the port")
    begin = metrics.time.monotonic()
    for _ in range(100):
        scrape(port)
    assert len(looks) <= 2 + metrics.time.monotonic() - begin
    silent.close()
    served.stop()


@pytest.mark.quiet
def test_two_hundred_who_drip_take_neither_the_stations_descriptors_nor_a_scrapes_place(tmp_path: Path) -> None:
    port, over = free_port(), threading.Event()
    station = Station(tmp_path, metrics={"port": port})
    process = station.start(under=("prlimit", "--nofile=128"))
    crowd: list[socket.socket] = []

    def drip() -> None:
        while not over.wait(0.2):
            for one in list(crowd)[::2]:  # the others only sit there
                with contextlib.suppress(OSError):
                    one.send(b"X")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        until(lambda: can_connect(port), "the port")
        for _ in range(200):
            crowd.append(socket.create_connection(("127.0.0.1", port), 5))
        begin = time.monotonic()
        assert "weldwatch_inspecting 1.0" in scrape(port)
        assert time.monotonic() - begin < 4, "a scrape waits for nobody's five seconds"
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 64
        station.put("A.png", flat_png(10))
        station.wait_for(1)
        assert "folder_out_of_means" not in scrape(port)
    finally:
        over.set()
        dripping.join()
        for one in crowd:
            one.close()
        process.terminate()
        assert process.wait(20) == 0


def test_who_drips_is_hung_up_on_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scraping, "CLIENT_S", 0.3)
    port = free_port()
    served = metrics.Metrics(MetricsConfig(port=port), Health(), lambda: GAUGES, lambda: STATUS)
    served.start()
    until(lambda: can_connect(port), "the port")
    with socket.create_connection(("127.0.0.1", port), 5) as dripping:

        def ended() -> bool:
            try:
                dripping.sendall(b"x")
            except OSError:
                return True
            return False

        until(ended, "the end of it", 5)
    served.stop()
    until(lambda: not [one for one in threading.enumerate() if "process_request" in one.name], "no thread is left")
