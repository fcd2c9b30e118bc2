"""``weldwatch demo``: the whole station with nothing configured."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.usage import examples, number

if TYPE_CHECKING:
    from agent.config import AgentConfig
    from agent.demo.camera import SimulatedCamera

_PATIENCE_S = 60.0  #: after the last frame was dropped

_EPILOG = examples(
    "weldwatch demo",
    "weldwatch demo --frames 200 --rate 20 --directory demo/",
    "weldwatch demo --frames 50 --mqtt-port 1883 --json",
    then="the folder has captures/, results/ and the agent.yaml that it ran with, to start your own from. "
    "weldwatch predict judges images of yours.",
)


def add_to(commands: Any) -> None:
    """Describe the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="the whole station with nothing configured",
        description="Run a whole station: a simulated camera drops synthetic weld frames into a capture folder, the "
        "agent judges them with the shipped bundle and publishes to a broker; a subscriber of its own shows what "
        "arrives. Ends by itself. The frames are drawn: to see the product at work, not to judge welds by.",
        epilog=_EPILOG,
    )
    command.add_argument("--frames", type=number(int, 1), default=50, metavar="N", help="how many (default 50)")
    command.add_argument("--rate", type=number(float, 0.1), default=5.0, metavar="R", help="a second (default 5)")
    command.add_argument("--directory", type=Path, metavar="D", help="captures, results and state (default: a new "
                         "folder for temporary files)")  # fmt: skip
    command.add_argument("--mqtt-port", type=number(int, 1, 65535), metavar="P", help="use the broker at 127.0.0.1:P "
                         "instead of the embedded one")  # fmt: skip
    command.add_argument("--bundle", default="weld-demo", help="a .pipeline file (default: the shipped demo bundle)")
    command.add_argument("--seed", type=number(int, 0), default=0, help="other welds with another number (default 0)")
    command.add_argument("--json", action="store_true", help="the summary as one JSON object in the last line")
    command.set_defaults(work=work)


def work(options: argparse.Namespace) -> int:
    """Start broker, subscriber, agent and camera; show what arrives; stop in order; sum up."""
    import tempfile

    from agent import logs
    from agent.app.agent import Agent
    from agent.app.places import make_folder
    from agent.delivery.mqtt import Subscriber
    from agent.demo.broker import EmbeddedBroker
    from agent.demo.camera import SimulatedCamera

    logs.set_up()
    started = time.monotonic()
    directory = options.directory or Path(tempfile.mkdtemp(prefix="weldwatch-demo-"))
    make_folder(directory / "captures", "--directory")
    broker = EmbeddedBroker() if options.mqtt_port is None else None
    port = broker.start() if broker else options.mqtt_port
    config = _config(directory, port, options.bundle)
    arrived = _Arrivals(options.frames, quiet=options.json)
    before = _count(directory)
    seen_before = {path.name for path in (directory / "captures").iterdir()}
    camera = SimulatedCamera(directory / "captures", options.frames, options.rate, _fresh_seed(options, seen_before))
    arrived.truth = camera.truth
    subscriber = Subscriber("127.0.0.1", port, f"{config.topic}/result", arrived)
    try:
        subscriber.start()
        agent = Agent(config, simulated=True)
        code = _run(agent, camera, arrived)
    finally:
        subscriber.stop()
        if broker:
            broker.stop()
    summary = {
        "inspected": agent.health.counters().get("inspected", 0),
        "json_files": _count(directory) - before,
        "mqtt_received": len(arrived.ids),
        **{name: arrived.evaluations.get(name, 0) for name in ("OK", "NotOK", "NotDecidable")},
        "seconds": round(time.monotonic() - started, 2),
        "directory": str(directory),
    }
    _sum_up(summary, options.json)
    return code


def _count(directory: Path) -> int:
    return sum(1 for _ in (directory / "results").glob("*/*.json"))


def _fresh_seed(options: argparse.Namespace, taken: set[str]) -> int:
    """A seed whose file names are not in the folder yet, so that a second demo in one folder adds to it."""
    seed: int = options.seed
    while any(f"_J{seed + 1}_" in name for name in taken):
        seed += 1
    return seed


def _config(directory: Path, port: int, bundle: str) -> AgentConfig:
    """The demo's configuration, also written beside its captures for people to look at and start from."""
    from agent import config

    captures, state, results = (directory / part for part in ("captures", "state", "results"))
    text = f"""\
# The demo's own configuration. Start from it: weldwatch run --config agent.yaml
station: {{enterprise: weldwatch, site: demo, area: demo, line: demo, name: demo-cam}}
state: {json.dumps(str(state))}
bundle: {{initial: {json.dumps(bundle)}}}
sources:
  - type: folder
    name: captures
    path: {json.dumps(str(captures))}
    settle_s: 0.05
    name_pattern: '(?P<part_id>P[0-9]+)_(?P<job_id>J[0-9]+)_(?P<frame>[0-9]+)'
results: {{directory: {json.dumps(str(results))}, min_free_mb: 0}}
mqtt: {{host: 127.0.0.1, port: {port}}}
"""
    (directory / "agent.yaml").write_text(text, encoding="utf-8")
    return config.parse(text, str(directory / "agent.yaml"))


def _run(agent: Any, camera: SimulatedCamera, arrived: _Arrivals) -> int:
    """The agent in a thread of its own, as ``weldwatch run`` would have it; the camera once it is ready."""
    from agent.errors import WeldwatchError

    outcome: list[int | WeldwatchError] = []

    def live() -> None:
        try:
            outcome.append(agent.run())
        except WeldwatchError as error:
            outcome.append(error)

    station = threading.Thread(target=live, name="agent")
    station.start()
    try:
        while station.is_alive() and not agent.ready.wait(0.05):
            pass
        if station.is_alive():
            camera.start()
            while camera.is_alive() and station.is_alive():
                camera.join(0.2)
            arrived.complete.wait(_PATIENCE_S if station.is_alive() and camera.error is None else 0)
    finally:
        camera.quit.set()
        agent.stop()
        station.join()
    if outcome and isinstance(outcome[0], WeldwatchError):
        raise outcome[0]
    if camera.error is not None:
        print(f"weldwatch: the simulated camera ended early: {camera.error}", file=sys.stderr)
    return 0 if arrived.complete.is_set() and outcome == [0] else 1


class _Arrivals:
    """What the subscriber hears: counted once per result id, and shown to people."""

    def __init__(self, expected: int, *, quiet: bool) -> None:
        self.ids: set[str] = set()
        self.evaluations: dict[str, int] = {}
        self.complete = threading.Event()
        self.truth: dict[str, str] = {}
        self._expected, self._quiet = expected, quiet
        if not quiet:
            from rich.console import Console

            self._console = Console(highlight=False)

    def __call__(self, payload: bytes) -> None:
        result = json.loads(payload)
        if result["result_id"] in self.ids:
            return
        self.ids.add(result["result_id"])
        self.evaluations[result["evaluation"]] = self.evaluations.get(result["evaluation"], 0) + 1
        if not self._quiet:
            self._show(result)
        if len(self.ids) >= self._expected:
            self.complete.set()

    def _show(self, result: dict[str, Any]) -> None:
        from rich.text import Text

        colour = {"OK": "green", "NotOK": "red"}.get(result["evaluation"], "yellow")
        value = result["reasons"][0]["value"]
        line = Text(f"{result['created_at'][11:23]}  {result['image']['name']}  ")
        line.append(f"{result['evaluation']:<13}", colour)
        line.append(f"defect {value:6.1%}" if value is not None else result["reasons"][0]["code"])
        line.append(f"  {result['timing_ms']['total']:5.1f} ms  ")
        line.append(f"(drawn: {self.truth.get(result['image']['name'], '?')})", "dim")
        self._console.print(line, soft_wrap=True)


def _sum_up(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(summary))
        return
    print(
        f"\n{summary['inspected']} frames inspected in {summary['seconds']} s: {summary['OK']} OK, {summary['NotOK']} "
        f"NotOK, {summary['NotDecidable']} NotDecidable; {summary['json_files']} JSON files, "
        f"{summary['mqtt_received']} MQTT messages received.\n"
        f"Look at them in {summary['directory']}: captures/, results/, agent.yaml; or with\n"
        f"  weldwatch log --stats --config {summary['directory']}/agent.yaml\n"
        f"  weldwatch predict {summary['directory']}/captures\n"
        "The frames are synthetic, and so is the shipped bundle's training: it must not judge real welds."
    )
