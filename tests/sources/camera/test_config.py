"""The section of a camera: what is refused, and in which words."""

from __future__ import annotations

import pytest

from agent import config
from agent.config import CameraConfig
from agent.errors import ConfigError

TOP = "station: {name: c}\nstate: s\nresults: {directory: r}\nsources:\n  - {type: camera, name: torch, %s}\n"


def said(keys: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(TOP % keys, "agent.yaml")
    return str(caught.value).removeprefix("agent.yaml: sources[0].")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("url: 'rtsp://u:secret@h/x'", "url: holds a user name or password; use username and password_file"),
        ("url: 'http://u@h/x'", "url: holds a user name or password; use username and password_file"),
        ("url: 'rtsp:///x'", "url: names no host; for example rtsp://10.0.0.20/stream1"),
        ("url: 'usb:left'", "url: found 'usb:left'; usb:0, usb:1, … or /dev/video0, /dev/video1, …"),
        ("url: 'genicam:1'", "producer: missing; the camera maker's .cti file, for a genicam: url"),
        ("url: 'usb:0', username: u", "username: found with a usb camera; only for rtsp and http"),
        ("url: 'rtsp://h/x', password_env: P", "password_env: found without username; give both or none"),
        ("url: 'rtsp://h/x', trigger: interval",
         "interval_s: missing; trigger: interval needs the seconds between two frames"),
        ("url: 'rtsp://h/x', interval_s: 1", "interval_s: found with trigger: continuous; set trigger: interval"),
        ("url: 'rtsp://h/x', trigger: command, fps: 1",
         "fps: found with trigger: command; only for trigger: continuous"),
        ("url: 'rtsp://h/x', region: [1, 2, 15, 400]",
         "region: found [1, 2, 15, 400]; [x, y, width, height] in pixels, 16 wide and high at least"),
        ("url: 'rtsp://h/x', region: [1, 2]", "region: found a list; [x, y, width, height] in pixels"),
        ("url: 'rtsp://h/x', policy: any", "policy: found 'any'; allowed: all, newest"),
        ("url: 'rtsp://h/x', fpss: 3", "fpss: unknown key; did you mean 'fps'?"),
        ("url: 'rtsp://h/x', ca: a.pem", "ca: found without an https:// url; only for https"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line(keys: str, line: str) -> None:
    assert said(keys).startswith(line)


@pytest.mark.parametrize("url", ["rtsp://u:secret@h/x", "http://u:secret@h:99999/x", "ftp://u:secret@h/x"])
def test_a_password_in_a_url_is_not_repeated(url: str) -> None:
    assert "secret" not in said(f"url: '{url}'")


def test_a_wrong_type_names_both_kinds() -> None:
    text = (TOP % "url: x").replace("type: camera", "type: kamera")
    with pytest.raises(ConfigError, match="found 'kamera'; allowed: folder, camera"):
        config.parse(text)


@pytest.mark.parametrize(
    ("url", "kind", "target"),
    [
        ("rtsp://h/x", "rtsp", "rtsp://h/x"),
        ("HTTPS://h/x", "mjpeg", "HTTPS://h/x"),
        ("usb:1", "usb", "1"),
        ("/dev/video2", "usb", "2"),
        ("file:///films/a.avi", "file", "/films/a.avi"),
        ("file:a.avi", "file", "a.avi"),
        ("films/take:2.avi", "file", "films/take:2.avi"),
        ("aravis:10.0.0.5", "aravis", "10.0.0.5"),
        ("genicam:", "genicam", ""),
    ],
)
def test_what_a_url_names(url: str, kind: str, target: str) -> None:
    camera = CameraConfig(name="torch", url=url)
    assert (camera.kind, camera.target) == (kind, target)
