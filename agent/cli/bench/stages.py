"""The stages that are measured, each with the agent's own code on real bytes.

decode ▸ preprocess ▸ inference (each variant and device) ▸ ledger commit ▸ result files ▸ MQTT ▸ the whole agent
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import Any

from agent.bundle.archive import Archive
from agent.errors import BundleError, ImageError, RetryError, UsageError
from agent.image import Picture, decode
from agent.ports import Stored

_DISTINCT = 16  #: synthetic frames, and at most so many of a folder
_ROUNDS = 60  #: of a stage
_WHOLE = 300  #: frames through the agent
_MQTT = 2000
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Measured:
    """A stage."""

    name: str
    times_ms: list[float] = field(default_factory=list)  #: one a frame
    per_second: float = 0.0
    note: str = ""
    on_the_way: bool = True  #: a frame has to pass it, on its own
    remedy: str = ""

    @property
    def p50_ms(self) -> float:
        """Half of them take longer."""
        return _quantile(self.times_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        """One in a hundred takes longer."""
        return _quantile(self.times_ms, 0.99)

    def as_json(self) -> dict[str, Any]:
        """For machines; null where nothing was timed one by one."""
        timed = bool(self.times_ms)
        return {
            "name": self.name,
            "p50_ms": round(self.p50_ms, 3) if timed else None,
            "p99_ms": round(self.p99_ms, 3) if timed else None,
            "per_second": round(self.per_second, 1),
            "note": self.note,
        }


def _quantile(times: list[float], part: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def _timed(name: str, work: Callable[[int], object], rounds: int = _ROUNDS, **changes: Any) -> Measured:
    """``work(0)`` once unmeasured, then ``rounds`` times."""
    work(0)
    times = []
    for number in range(rounds):
        begin = time.perf_counter()
        work(number)
        times.append((time.perf_counter() - begin) * 1e3)
    return Measured(name, times, 1e3 / max(1e-6, sum(times) / len(times)), **changes)


class Bench:
    """``with Bench(…) as bench``; ``stages`` in their order. ``UsageError`` where frames or bundle are not there."""

    def __init__(self, bundle: str, frames: str | None, directory: str | None) -> None:
        from agent.model.store import resolve

        self._archive = resolve(bundle)
        self.synthetic = frames is None
        self._closing = contextlib.ExitStack()
        self._directory = Path(directory or tempfile.gettempdir())
        if not os.access(self._directory, os.W_OK | os.X_OK):
            raise UsageError(f"--directory: {directory}: no folder that this user can write to; choose another")
        self._images = _synthetic() if frames is None else _from(Path(frames))
        self._pictures = [decode(data) for data in self._images]
        self.frames_per_second = 0.0
        first, kb = self._pictures[0], sum(map(len, self._images)) / len(self._images) / 1000
        kind = "synthetic frames" if frames is None else f"frames of {frames}"
        self.frames_told = f"{len(self._images)} {kind}, {first.width}×{first.height}, {kb:.0f} kB each"
        with Archive(self._archive) as archive:
            manifest = archive.manifest
        self.bundle_told = f"bundle {manifest.name} {manifest.version}"

    def __enter__(self) -> Bench:
        folder = tempfile.TemporaryDirectory(prefix="weldwatch-bench-", dir=self._directory)
        self._folder = Path(self._closing.enter_context(folder))
        return self

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    def machine(self) -> str:
        """Processor, cores, and the disk that is measured."""
        import platform

        cores = len(os.sched_getaffinity(0))
        return f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, disk of {self._directory}"

    def stages(self) -> dict[str, Callable[[], list[Measured]]]:
        """What to measure, by what is being done."""
        return {
            "decoding": self._decode,
            "preprocessing and inference": self._models,
            "committing": self._commit,
            "writing files": self._files,
            "MQTT on loopback": self._mqtt,
            "the whole agent": self._whole,
        }

    def _decode(self) -> list[Measured]:
        remedy = "smaller frames, or JPEG instead of PNG"
        return [_timed("decode", lambda n: decode(self._images[n % len(self._images)]), remedy=remedy)]

    def _models(self) -> list[Measured]:
        from agent.bundle.preprocess import to_gray, to_input
        from agent.model.devices import to_try
        from agent.model.session import OnnxModel

        found = []
        with Archive(self._archive) as archive:
            how = archive.manifest.preprocessing
            arrays = [to_input(to_gray(picture, how)) for picture in self._pictures]
            found.append(
                _timed("preprocess", lambda n: to_input(to_gray(self._picture(n), how)), remedy="smaller frames")
            )
            for variant in archive.manifest.variants:
                for device in to_try("auto"):
                    name = f"inference {variant} on {device.name}"
                    try:
                        model = OnnxModel(archive, variant, device)
                    except BundleError as error:
                        found.append(Measured(name, note=str(error), on_the_way=False))
                        continue
                    first = not any(one.name.startswith("inference") and one.on_the_way for one in found)
                    found.append(_inference(name, model, arrays, first))
        return found

    def _picture(self, number: int) -> Picture:
        return self._pictures[number % len(self._pictures)]

    def _results(self, count: int) -> list[Stored]:
        return list(islice(self._endless(), count))

    def _endless(self) -> Iterator[Stored]:
        """Results as the agent makes them of these frames."""
        import msgspec

        from agent.clock import SystemClock
        from agent.inspection import inspect
        from agent.model.loading import load
        from agent.result import new_result_id

        like = inspect(_frame(self._picture(0)), load(self._archive).model, None, SystemClock())
        for number in numbers(1):
            image = msgspec.structs.replace(like.image, name=f"bench_{number:06d}.png")
            one = msgspec.structs.replace(
                like, result_id=new_result_id(), sequence=number, ledger_id="bench", image=image
            )
            yield Stored(number, one.result_id, one.created_at, one.image.name, msgspec.json.encode(one))

    def _commit(self) -> list[Measured]:
        import msgspec

        from agent.clock import SystemClock
        from agent.ledger import Entry, Ledger
        from agent.result import Result

        ledger = Ledger.open(self._folder / "ledger", SystemClock())
        entries = [Entry(msgspec.json.decode(one.body, type=Result), None, "bench") for one in self._results(200)]
        remedy = "a faster disk; under load results share a sync"
        alone = _timed("ledger commit, with its sync", lambda n: ledger.commit([entries[n]]), remedy=remedy)
        group = _timed("ledger commit of 16 together", lambda n: ledger.commit(entries[n : n + 16]), on_the_way=False)
        ledger.close()
        return [alone, Measured(group.name, group.times_ms, group.per_second * 16, on_the_way=False)]

    def _files(self) -> list[Measured]:
        from agent.config import ResultsConfig
        from agent.delivery.json_files import JsonFiles

        files = JsonFiles(ResultsConfig(directory=str(self._folder / "files")))
        results = self._endless()
        alone = _timed("result file and log line, synced", lambda _: files.deliver([next(results)]), on_the_way=False)
        group = _timed(
            "result files and log lines, 20 together", lambda _: files.deliver([next(results) for _ in range(20)]), 20
        )
        return [alone, Measured(group.name, group.times_ms, group.per_second * 20, on_the_way=False)]

    def _mqtt(self) -> list[Measured]:
        """Through the embedded broker, where it is installed."""
        from agent.clock import SystemClock
        from agent.config import MqttConfig
        from agent.delivery.mqtt import MqttSink
        from agent.demo.broker import EmbeddedBroker
        from agent.health import Health

        name = "MQTT to the embedded broker"
        broker = EmbeddedBroker()
        try:
            broker.start()
        except UsageError as error:
            return [Measured(name, note=str(error), on_the_way=False)]
        sink = MqttSink(MqttConfig(host="127.0.0.1", port=broker.port), "bench", dict, Health(), SystemClock())
        woken = threading.Event()
        results, at = self._results(_MQTT), 0
        sink.open(woken.set)
        try:
            woken.wait(10)
            begin = time.perf_counter()
            while at < len(results) and time.perf_counter() - begin < _PATIENCE_S:
                try:
                    at += sink.deliver(results[at : at + sink.pace.batch])
                except RetryError:
                    woken.wait(0.1)
            spent = time.perf_counter() - begin
        finally:
            sink.close()
            broker.stop()
        return [Measured(name, per_second=at / spent, note="QoS 1, acknowledged", on_the_way=False)]

    def _whole(self) -> list[Measured]:
        """The agent itself over a folder, from its first result to its last."""
        from agent.app.agent import Agent
        from agent.cli.log.reading import Wanted, created_at, read
        from agent.clock import parse_iso
        from agent.config import AgentConfig, BundleConfig, FolderConfig, ResultsConfig, StationConfig

        captures, results = self._folder / "captures", self._folder / "results"
        captures.mkdir()
        for number in range(_WHOLE):
            (captures / f"bench_{number:06d}.png").write_bytes(self._images[number % len(self._images)])
        config = AgentConfig(
            station=StationConfig(name="bench"),
            state=str(self._folder / "state"),
            sources=[FolderConfig(name="captures", path=str(captures), settle_s=0.0)],
            results=ResultsConfig(directory=str(results), min_free_mb=0),
            bundle=BundleConfig(initial=str(self._archive)),
        )
        Agent(config, simulated=True).run(once=True)
        times = sorted(filter(None, map(created_at, read(results, Wanted()))))
        shutil.rmtree(captures)
        span = (parse_iso(times[-1]) - parse_iso(times[0])).total_seconds() if len(times) > 1 else 0.0
        self.frames_per_second = (len(times) - 1) / span if span else 0.0
        note = f"{len(times)} frames from folder to disk"
        return [Measured("the whole agent", per_second=self.frames_per_second, note=note, on_the_way=False)]


def _inference(name: str, model: Any, arrays: list[Any], on_the_way: bool) -> Measured:
    remedy = "the int8 variant first in the bundle, a smaller network, or an accelerator"
    return _timed(
        name, lambda n: model.probabilities(arrays[n % len(arrays)]), _ROUNDS * 3, on_the_way=on_the_way, remedy=remedy
    )


def _frame(picture: Picture) -> Any:
    from datetime import datetime, timezone

    from agent.frame import Frame

    return Frame(
        source="bench",
        name="bench.png",
        key=b"",
        captured_at=datetime.now(timezone.utc),
        captured_from="mtime",
        picture=picture,
        problem=None,
        sha256="0" * 64,
        bytes=0,
        decode_ms=0.0,
    )


def _synthetic() -> list[bytes]:
    """PNG files as a camera would write them, drawn by the demo's scene."""
    from PIL import Image

    from agent.demo.scene import recording, render

    found = []
    for number in range(_DISTINCT):
        buffer = io.BytesIO()
        Image.fromarray(render(recording(number), number % 2, number)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def _from(folder: Path) -> list[bytes]:
    """Images of a folder. ``UsageError`` where there are none that can be read."""
    found: list[bytes] = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and len(found) < _DISTINCT:
            data = path.read_bytes()
            with contextlib.suppress(ImageError):
                decode(data)
                found.append(data)
    if not found:
        raise UsageError(f"--frames: {folder}: no image that can be decoded; name a folder of images")
    return found
