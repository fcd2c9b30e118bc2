"""One suite for everything that stands behind the ``Grabber`` port: real servers, simulated cameras, and the fake."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import CameraConfig
from agent.errors import RetryError
from agent.sources.camera.build import grabber_of
from agent.sources.camera.grabber import Grabber
from tests.sources.camera.conftest import FakeCamera
from tests.support.gige import gige_camera, simulated_producer
from tests.support.mjpeg import MjpegCamera, mjpeg_camera
from tests.support.ports import free_port
from tests.support.rtsp import rtsp_camera
from tests.support.stamp import age_s

pytestmark = pytest.mark.quiet

#: Where nobody is. The last one is a place that takes the connection and says nothing.
NOWHERE = {
    "rtsp": "rtsp://127.0.0.1:{port}/stream",
    "mjpeg": "http://127.0.0.1:{port}/video",
    "aravis": "aravis:127.0.0.77",
    "genicam": "genicam:nobody",
    "film": "/nowhere/film.avi",
}
LIVE = ["fake", "mjpeg", "rtsp", "aravis", "genicam"]


@dataclass
class Camera:
    """A camera, and how to look at it."""

    config: CameraConfig
    fps: float | None
    stamped: bool
    fake: bool = False

    def grabber(self) -> Grabber:
        return Continuing() if self.fake else grabber_of(self.config)()


class Continuing(FakeCamera):
    """The fake, showing a frame whenever it is asked."""

    def read(self) -> Any:
        if not self._closed:
            self.show(-1)
        return super().read()


def config(url: str, **keys: Any) -> CameraConfig:
    if url.startswith("genicam:"):
        keys["producer"] = str(simulated_producer())
    return CameraConfig(name="torch", url=url, **keys)


@pytest.fixture
def camera(request: Any) -> Iterator[Camera]:
    kind = request.param
    if kind == "rtsp":
        with rtsp_camera() as rtsp:
            yield Camera(config(rtsp.url), 25, stamped=True)
    elif kind == "mjpeg":
        with mjpeg_camera() as mjpeg:
            yield Camera(config(mjpeg.url), mjpeg.fps, stamped=True)
    elif kind == "aravis":
        with gige_camera() as gige:
            yield Camera(config(gige.url), gige.fps, stamped=False)
    elif kind == "genicam":
        yield Camera(config("genicam:VikyTL_DEV_red"), 20, stamped=False)
    else:
        yield Camera(config("file:fake"), None, stamped=True, fake=True)


def opened(grabber: Grabber) -> Grabber:
    """Open, as patiently as the feed does: a simulated camera takes a moment to be there."""
    for attempt in range(20):
        try:
            grabber.open()
            return grabber
        except RetryError:
            if attempt == 19:
                raise
            time.sleep(0.2)
    raise AssertionError


def until_it_breaks_off(call: Callable[[], Any]) -> str:
    """Why it broke off."""
    while True:
        try:
            call()
        except RetryError as error:
            return str(error)


@pytest.mark.parametrize("camera", LIVE, indirect=True)
def test_frames_come_at_the_cameras_own_rate_fresh_and_whole(camera: Camera) -> None:
    grabber = opened(camera.grabber())
    try:
        grabs = []
        for _ in range(30):
            grab = grabber.read()
            assert grab is not None
            grabs.append(grab)
            assert -0.05 <= time.monotonic() - grab.at < 1
        pictures = [np.asarray(grab.picture.image) for grab in grabs]
        assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
        assert len({picture.shape for picture in pictures}) == 1
        assert not any(one.same_as(next_one) for one, next_one in pairwise(grabs))
        assert all(one.same_as(one) for one in grabs)
        if camera.fps is not None:
            # The usual interval: a busy machine holds a frame up now and then, and the next ones come at once.
            assert 1 / np.median(np.diff([grab.at for grab in grabs])) == pytest.approx(camera.fps, rel=0.25)
        if camera.stamped:
            assert max(age_s(picture, grab.at) for picture, grab in zip(pictures, grabs, strict=True)) < 0.6
    finally:
        grabber.close()


@pytest.mark.parametrize("camera", LIVE, indirect=True)
def test_close_ends_a_read_in_another_thread_and_is_for_good(camera: Camera) -> None:
    grabber = opened(camera.grabber())
    grabber.read()
    reading = threading.Thread(target=until_it_breaks_off, args=(grabber.read,))
    reading.start()
    begin = time.monotonic()
    grabber.close()
    reading.join(5)
    assert time.monotonic() - begin < 1
    grabber.close()
    if not camera.fake:
        with pytest.raises(RetryError):
            grabber.open()


@pytest.mark.parametrize("kind", sorted(NOWHERE))
def test_nobody_there_is_said_in_time_and_may_be_tried_again(kind: str) -> None:
    grabber = grabber_of(config(NOWHERE[kind].format(port=free_port())))()
    for _ in range(2):
        begin = time.monotonic()
        with pytest.raises(RetryError) as caught:
            grabber.open()
        assert time.monotonic() - begin < 8
        assert str(caught.value)
        assert "\n" not in str(caught.value)
    grabber.close()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_takes_the_connection_and_says_nothing(scheme: str) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        grabber = grabber_of(config(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x", stall_s=1.0))()
        begin = time.monotonic()
        with pytest.raises(RetryError, match="not answer"):
            grabber.open()
        assert 0.8 < time.monotonic() - begin < 3
        opening = threading.Thread(target=until_it_breaks_off, args=(grabber.open,))
        opening.start()
        begin = time.monotonic()
        grabber.close()
        opening.join(3)
        assert not opening.is_alive()
        assert time.monotonic() - begin < 2


def test_accounts_of_rtsp(monkeypatch: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p@ss:/word\n")
    with rtsp_camera("inspector", "p@ss:/word") as camera:
        with_file = config(camera.url, username="inspector", password_file=str(secret))
        grabber = opened(grabber_of(with_file)())
        assert grabber.read() is not None
        drivers = [line for path in _children() if b"camera.child" in (line := path.read_bytes())]
        grabber.close()
        assert len(drivers) == 1
        assert b"p@ss" not in drivers[0]
        monkeypatch.setenv("CAMERA_PASSWORD", "wrong")
        wrong = grabber_of(config(camera.url, username="inspector", password_env="CAMERA_PASSWORD"))()
        with pytest.raises(RetryError, match="username and password"):
            wrong.open()
        wrong.close()


def _children() -> list[Path]:
    me = str(os.getpid())
    return [
        stat.parent / "cmdline"
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.read_text().rpartition(")")[2].split()[1] == me
    ]


def test_accounts_of_mjpeg(monkeypatch: Any) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "p@ss:/word")
    with mjpeg_camera(account="inspector:p@ss:/word") as camera:
        grabber = grabber_of(config(camera.url, username="inspector", password_env="CAMERA_PASSWORD"))()
        grabber.open()
        assert grabber.read() is not None
        grabber.close()
        assert camera.authorizations[0] is None, "nothing is told before it is asked for"
        nobody = grabber_of(config(camera.url))()
        with pytest.raises(RetryError, match=r"refuses user name or password \(401\)"):
            nobody.open()
        nobody.close()


# --- films ---


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty frames, 25 a second, each of its own gray level."""
    import cv2

    path = tmp_path_factory.mktemp("film") / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (160, 120))
    for number in range(50):
        writer.write(np.full((120, 160, 3), 50 + 3 * number, np.uint8))
    writer.release()
    return path


def test_a_film_is_read_frame_by_frame_to_its_end(film: Path) -> None:
    grabber = grabber_of(config(f"file:{film}", policy="all"))()
    grabber.open()
    assert grabber.waits
    levels, times = [], []
    while (grab := grabber.read()) is not None:
        levels.append(float(np.asarray(grab.picture.image).mean()))
        times.append(grab.stream_s)
    assert levels == pytest.approx([50 + 3 * number for number in range(50)], abs=1.5)
    assert times == pytest.approx([number / 25 for number in range(50)])
    grabber.close()


def test_a_film_plays_at_its_own_speed_for_the_newest(film: Path) -> None:
    grabber = grabber_of(config(str(film)))()
    grabber.open()
    begin, count = time.monotonic(), 0
    while grabber.read() is not None:
        count += 1
    assert count == 50
    assert 1.8 < time.monotonic() - begin < 4
    grabber.close()


def test_a_playlist_cannot_name_other_files(film: Path, tmp_path: Path) -> None:
    lists = tmp_path / "list.m3u8"
    lists.write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:{free_port()}/x.ts\n#EXT-X-ENDLIST\n"
    )
    grabber = grabber_of(config(str(lists)))()
    with pytest.raises(RetryError, match="not a video"):
        grabber.open()
    grabber.close()


# --- drivers in their process ---


def test_a_driver_that_crashes_or_hangs_is_replaced() -> None:
    import signal

    grabber: Any = grabber_of(config("genicam:VikyTL_DEV_green", stall_s=1.0))()
    for number, why in ((signal.SIGSEGV, "SIGSEGV"), (signal.SIGSTOP, "no frame for 1 s")):
        opened(grabber)
        assert grabber.read() is not None
        pid = grabber._process.pid
        os.kill(pid, number)
        begin = time.monotonic()
        assert why in until_it_breaks_off(grabber.read)
        assert time.monotonic() - begin < 3
        assert not Path(f"/proc/{pid}").exists()
    opened(grabber)
    assert grabber.read() is not None
    grabber.close()


def test_the_agents_process_never_loads_a_camera_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from agent.config import CameraConfig; from agent.sources.camera.build import grabber_of\n"
        "g = grabber_of(CameraConfig(name='t', url='rtsp://127.0.0.1:1/x'))()\n"
        "try: g.open()\nexcept Exception as error: print(error)\n"
        "g.close(); print([m for m in sys.modules if m.startswith(('cv2', 'harvesters', 'genicam'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["127.0.0.1:1: Connection refused", "[]"]


# --- MJPEG, byte by byte ---


def replies(camera: MjpegCamera, data: bytes) -> Grabber:
    def send(out: Any, stop: threading.Event) -> None:
        out.write(data)
        stop.wait(5)

    camera.send = send
    grabber = grabber_of(config(camera.url, stall_s=0.5))()
    grabber.open()
    return grabber


def frames(grabber: Grabber) -> list[bytes]:
    """Until nothing comes."""
    got: list[bytes] = []
    try:
        while (grab := grabber.read()) is not None:
            assert grab.data is not None
            got.append(grab.data)
    except RetryError:
        pass
    finally:
        grabber.close()
    return got


A, B, C = (bytes([number]) * 500 for number in (65, 66, 67))


@pytest.mark.parametrize(
    ("stream", "whole"),
    [
        (b"--frame\r\n\r\nAA\r\n--frame\r\n\r\nBB\r\n--frame", [b"AA", b"BB"]),
        (b"preamble\r\n--frame\r\nContent-Length: 2\r\n\r\nAA\r\n--frame\r\n", [b"AA"]),
        (b"--frame\nX: y\r\n\r\n" + A + b"\n--frame\r\n", [A]),
        (b"--frame\r\ncontent-length:2\r\n\r\nAA--frame\r\n", [b"AA"]),
        # announces more than it sends: the part is no frame, the next one is
        (b"--frame\r\nContent-Length: 600\r\n\r\n" + A + b"\r\n--frame\r\nContent-Length: 500\r\n\r\n" + B +
         b"\r\n--frame\r\nContent-Length: 500\r\n\r\n" + C + b"\r\n--frame", [B, C]),
        # announces less
        (b"--frame\r\nContent-Length: 100\r\n\r\n" + A + b"\r\n--frame\r\nContent-Length: 500\r\n\r\n" + B +
         b"\r\n--frame", [B]),
        # ends as a JPEG does: the next boundary need not be there yet
        (b"--frame\r\nContent-Length: 4\r\n\r\nAA\xff\xd9", [b"AA\xff\xd9"]),
        (b"--frame\r\nContent-Length: 99999999\r\n\r\n" + A, []),
        (b"--frame\r\n" + b"X" * 20_000, []),
        (b"no boundary at all" * 50, []),
    ],
)  # fmt: skip
def test_only_parts_between_boundaries_are_frames(stream: bytes, whole: list[bytes]) -> None:
    with mjpeg_camera() as camera:
        assert frames(replies(camera, stream)) == whole


def test_a_frame_that_trickles_in_is_no_frame() -> None:
    def trickle(out: Any, stop: threading.Event) -> None:
        out.write(b"--frame\r\nContent-Length: 1000\r\n\r\n")
        while not stop.wait(0.1):
            out.write(b"A")

    with mjpeg_camera() as camera:
        camera.send = trickle
        grabber = grabber_of(config(camera.url, stall_s=0.6))()
        grabber.open()
        begin = time.monotonic()
        with pytest.raises(RetryError, match="no whole frame"):
            grabber.read()
        assert time.monotonic() - begin < 3
        grabber.close()


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [
        (404, {}, "404"),
        (302, {"Location": "http://elsewhere.invalid/"}, "sends us elsewhere"),
        (200, {"Content-Type": "image/jpeg"}, "image/jpeg, not multipart"),
        (200, {"Content-Type": "multipart/x-mixed-replace"}, "not multipart"),
    ],
)
def test_answers_that_are_no_stream(status: int, headers: dict[str, str], why: str) -> None:
    with mjpeg_camera() as camera:
        camera.status, camera.headers = status, headers
        grabber = grabber_of(config(camera.url))()
        with pytest.raises(RetryError, match=why):
            grabber.open()
        grabber.close()
