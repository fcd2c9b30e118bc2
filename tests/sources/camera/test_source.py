"""The camera source over a fake camera: what is asked for, what is kept, what is said."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agent.errors import RetryError

pytestmark = pytest.mark.quiet

NOW = -1  #: a stamped frame


def test_a_frame_is_saved_as_it_is_judged(watch: Any, camera: Any) -> None:
    running = watch(camera)
    camera.show(NOW)
    (frame,) = running.until_frames(1)
    data = running.saved(frame).read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (frame.sha256, frame.bytes)
    with Image.open(running.saved(frame)) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), np.asarray(frame.picture.image))
    assert (frame.captured_from, frame.source, len(frame.key)) == ("camera", "torch", 16)
    assert frame.name == f"{frame.captured_at:%Y-%m-%d/%H}/{running.saved(frame).name}"


def test_jpeg_is_judged_as_it_was_saved(watch: Any, camera: Any) -> None:
    running = watch(camera, format="jpeg")
    camera.show(NOW)
    (frame,) = running.until_frames(1)
    with Image.open(running.saved(frame)) as image:
        assert image.format == "JPEG"
        assert np.array_equal(np.asarray(image), np.asarray(frame.picture.image))


def test_a_jpeg_of_the_camera_is_saved_byte_for_byte(watch: Any, camera: Any, make_jpeg: Any) -> None:
    running, data = watch(camera), make_jpeg(90)
    camera.show(0, data=data)
    (frame,) = running.until_frames(1)
    assert running.saved(frame).read_bytes() == data


def test_region(watch: Any, camera: Any, make_jpeg: Any) -> None:
    running = watch(camera, region=[10, 20, 30, 40], policy="all")
    camera.show(NOW)
    camera.show(0, data=make_jpeg(90))
    for frame in running.until_frames(2):
        assert (frame.picture.width, frame.picture.height) == (30, 40)
        with Image.open(running.saved(frame)) as image:
            assert image.size == (30, 40)
            assert np.array_equal(np.asarray(image), np.asarray(frame.picture.image))


def test_a_region_outside_the_picture_is_not_decidable_and_the_whole_is_saved(watch: Any, camera: Any) -> None:
    running = watch(camera, region=[300, 0, 100, 100])
    camera.show(NOW)
    (frame,) = running.until_frames(1)
    assert frame.problem.code == "region_outside"
    with Image.open(running.saved(frame)) as image:
        assert image.size == (320, 240)


def test_newest_is_taken_once_there_is_room_and_the_others_are_counted(watch: Any, camera: Any) -> None:
    running = watch(camera)
    running.room.hold()
    camera.show(*range(10, 20))
    camera.show(99)
    running.until(lambda: running.counter("camera_dropped") == 10)
    running.room.let_go()
    running.until_frames(1)
    assert running.levels() == [99]


def test_newest_lets_a_frame_be_that_waited_too_long(watch: Any, camera: Any) -> None:
    running = watch(camera, stall_s=0.5)
    running.room.hold()
    camera.show(10)
    time.sleep(0.7)
    running.room.let_go()
    camera.show(20)
    running.until_frames(1)
    assert running.levels() == [20]


def test_all_keeps_every_frame_up_to_its_buffer_and_drops_the_oldest(watch: Any, camera: Any) -> None:
    running = watch(camera, policy="all", buffer=4)
    running.room.hold()
    camera.show(*range(10, 20))
    running.until(lambda: running.counter("camera_dropped") == 6)
    running.room.let_go()
    running.until_frames(4)
    assert running.levels() == [16, 17, 18, 19]
    running.until(lambda: running.counter("camera_offered") == 4)


def test_a_film_waits_and_ends(watch: Any, film: Any) -> None:
    running = watch(film, policy="all", buffer=2)
    running.room.hold()
    for number in range(40):
        film.show(number, stream_s=number / 25)
    film.say(None)
    running.room.let_go()
    running.until_state("ended")
    running.until_frames(40)
    assert running.levels() == list(range(40))
    assert running.counter("camera_dropped") == 0


def test_once_ends_with_the_film_and_inspects_its_last_frame(watch: Any, film: Any) -> None:
    running = watch(film, policy="all", once=True)
    for number in range(5):
        film.show(number, stream_s=number / 25)
    film.say(None)
    running.join()
    assert running.levels() == [0, 1, 2, 3, 4]


def test_once_takes_one_frame_of_a_camera(watch: Any, camera: Any) -> None:
    running = watch(camera, url="rtsp://camera.invalid/x", once=True)
    camera.show(7)
    running.join()
    assert running.levels() == [7]


def test_fps_thins_out_on_the_streams_own_time(watch: Any, film: Any) -> None:
    running = watch(film, policy="all", fps=10)
    for number in range(100):
        film.show(number, stream_s=number / 25 + (0.004 if number % 2 else 0))
    film.say(None)
    running.until_state("ended")
    running.until(lambda: running.counter("camera_frames") == 100)
    assert len(running.until_frames(40)) == 40
    steps = np.diff(running.levels())
    assert set(steps) <= {2, 3}


def test_interval(watch: Any, camera: Any) -> None:
    running = watch(camera, trigger="interval", interval_s=0.3)
    begin = time.monotonic()
    while len(running.frames) < 4:
        camera.show(NOW)
        time.sleep(0.02)
    assert 0.8 <= time.monotonic() - begin < 2.5
    assert running.counter("camera_dropped") == 0


# --- command ---


def test_a_trigger_is_answered_with_the_id_once_the_result_is_durable(watch: Any, camera: Any) -> None:
    running = watch(camera, trigger="command")
    running.release = False
    camera.show(10)
    running.until(lambda: running.counter("camera_frames") == 1)
    answer = running.source.trigger()
    camera.show(20)
    (frame,) = running.until_frames(1)
    assert running.levels() == [20], "what was seen before the trigger does not answer it"
    assert not answer.done()
    running.source.release([frame.key])
    assert answer.result(1) == frame.result_id


def test_each_trigger_has_a_frame_of_its_own(watch: Any, camera: Any) -> None:
    running = watch(camera, trigger="command")
    running.until_state("connecting")
    answers = [running.source.trigger() for _ in range(3)]
    for number in range(3):
        camera.show(10 + number)
        running.until_frames(number + 1)
    assert [answer.result(1) for answer in answers] == [frame.result_id for frame in running.frames]
    assert running.levels() == [10, 11, 12]


def test_a_trigger_without_a_camera_is_not_decidable(watch: Any, camera: Any) -> None:
    camera.open_fails = "no route"
    running = watch(camera, trigger="command", stall_s=0.5)
    running.until_state("connecting")
    answer = running.source.trigger()
    (frame,) = running.until_frames(1)
    assert frame.problem.code == "no_frame"
    assert frame.sha256 is None
    assert frame.name.startswith(f"{frame.captured_at:%Y-%m-%d}")
    assert answer.result(1) == frame.result_id


def test_a_trigger_while_nothing_is_inspected_is_refused(watch: Any, camera: Any) -> None:
    running = watch(camera, trigger="command", stall_s=0.5)
    running.until_state("connecting")
    running.room.close()
    answer = running.source.trigger()
    with pytest.raises(RetryError, match="nothing is inspected"):
        answer.result(10)


def test_triggers_end_with_the_agent_and_are_refused_where_they_are_not_configured(watch: Any, camera: Any) -> None:
    running = watch(camera, trigger="command", stall_s=60)
    running.until_state("connecting")
    answer = running.source.trigger()
    assert running.stop() < 1
    with pytest.raises(RetryError, match="stops"):
        answer.result(1)
    with pytest.raises(RetryError, match="stops"):
        running.source.trigger().result(1)
    with pytest.raises(RetryError, match="trigger: continuous"):
        watch(camera).source.trigger().result(1)


# --- what is wrong with pictures ---


def test_a_frozen_picture_is_not_decidable_and_saved_once(watch: Any, camera: Any) -> None:
    running = watch(camera, frozen_s=0.3)
    while not running.frames or running.frames[-1].problem is None:
        camera.show(50)
        time.sleep(0.03)
    camera.show(50)
    running.until(lambda: running.counter("camera_frozen") >= 2)
    frozen = [frame for frame in running.frames if frame.problem]
    assert {frame.problem.code for frame in frozen} == {"frozen_image"}
    assert len({frame.name for frame in frozen}) == 1
    assert running.saved(frozen[0]).exists()
    assert "camera_frozen:torch" in running.health.problems()
    camera.show(51)
    running.until(lambda: running.frames[-1].picture is not None)
    assert running.health.problems() == {}


def test_a_picture_that_was_frozen_before_the_trigger_does_not_pass(watch: Any, camera: Any) -> None:
    running = watch(camera, frozen_s=0.3, trigger="command")
    for _ in range(20):
        camera.show(50)
        time.sleep(0.03)
    answer = running.source.trigger()
    camera.show(50)
    (frame,) = running.until_frames(1)
    assert frame.problem.code == "frozen_image"
    assert running.saved(frame).exists()
    assert answer.result(1) == frame.result_id


@pytest.mark.parametrize(("keys", "judged"), [({}, [90]), ({"policy": "all"}, [None, 90])])
def test_a_damaged_frame_is_passed_over_only_where_any_newer_one_will_do(
    watch: Any, camera: Any, make_jpeg: Any, keys: Any, judged: Any
) -> None:
    running = watch(camera, **keys)
    spliced = make_jpeg(60)[:2000] + make_jpeg(90)
    camera.show(0, data=spliced)
    running.until(lambda: running.counter("camera_damaged") == 1)
    camera.show(90)
    running.until_frames(len(judged))
    assert [running.levels()[-1] if frame.picture else None for frame in running.frames] == judged
    if frame := next((frame for frame in running.frames if frame.problem), None):
        assert frame.problem.code == "unreadable_image"
        assert running.saved(frame).read_bytes() == spliced


def test_a_camera_all_of_whose_frames_are_damaged_is_not_silent(watch: Any, camera: Any, make_jpeg: Any) -> None:
    running = watch(camera, stall_s=0.5)
    begin = time.monotonic()
    shown = 0
    while not running.frames:
        shown += 1
        camera.show(0, data=make_jpeg(60)[:2000])
        camera.until_taken(shown)
        assert time.monotonic() - begin < 10
    camera.show(90)
    running.until(lambda: running.levels() == [90])
    *bad, _ = running.frames
    assert {frame.problem.code for frame in bad} == {"unreadable_image"}
    damaged = running.counter("camera_damaged")
    assert damaged > len(bad)  # the first ones were passed over
    camera.show(0, data=make_jpeg(60)[:2000])
    running.until(lambda: running.counter("camera_damaged") == damaged + 1)
    camera.show(91)
    running.until(lambda: running.levels() == [90, 91])
    assert len(running.frames) == len(bad) + 2


def test_what_cannot_be_saved_is_not_decidable(watch: Any, camera: Any, tmp_path: Any) -> None:
    (tmp_path / "taken").write_bytes(b"a file, not a folder")
    running = watch(camera, save=str(tmp_path / "taken"))
    camera.show(NOW)
    (frame,) = running.until_frames(1)
    assert frame.problem.code == "frame_unsaved"
    assert "camera_unsaved:torch" in running.health.problems()
    (tmp_path / "taken").unlink()
    camera.show(NOW)
    running.until_frames(2)
    assert running.frames[1].picture is not None
    assert running.health.problems() == {}


# --- interruptions ---


def test_a_gap_is_reported_and_what_was_read_before_it_is_not_handed_on(watch: Any, camera: Any, caplog: Any) -> None:
    running = watch(camera, stall_s=0.5)
    camera.show(10)
    running.until_frames(1)
    running.room.hold()
    camera.show(20)
    camera.say(RetryError("cable pulled"))
    running.until(lambda: "camera_stalled:torch" in running.health.problems())
    assert running.state == "stalled"
    assert running.health.problems()["camera_stalled:torch"] == "cable pulled"
    running.room.let_go()
    camera.show(30)
    running.until_frames(2)
    assert running.levels() == [10, 30]
    assert running.state == "streaming"
    assert running.health.problems() == {}
    assert (running.counter("camera_gaps"), running.counter("camera_gap_s")) == (1, 1)
    (line,) = [one.getMessage() for one in caplog.records if "gap" in one.getMessage()]
    assert line.startswith("camera_gap: torch: frames again, after a gap of ")
    assert line.endswith(" s: cable pulled")


def test_a_silent_camera_is_stalled_although_its_reader_hangs(watch: Any, camera: Any) -> None:
    running = watch(camera, stall_s=0.5)
    camera.show(10)
    running.until_state("streaming")
    running.until_state("stalled")
    assert running.stop() < 1


def test_a_camera_that_is_never_there(watch: Any, camera: Any) -> None:
    camera.open_fails = "Connection refused"
    running = watch(camera, stall_s=0.5)
    running.until_state("stalled")
    assert running.health.problems() == {"camera_stalled:torch": "Connection refused"}
    assert 3 <= camera.opened <= 12
    assert running.stop() < 1


def test_a_fault_of_a_reader_ends_the_source_and_is_not_swallowed(watch: Any, camera: Any) -> None:
    running = watch(camera)
    camera.say(ZeroDivisionError("a bug"))
    assert isinstance(running.failure(), ZeroDivisionError)


def test_keys_do_not_pile_up_in_the_ledger(watch: Any, camera: Any) -> None:
    running = watch(camera)
    running.ledger.keys = {b"k" * 16: None}
    running.source._next_forget = 0.0
    camera.show(NOW)
    running.until(lambda: b"k" * 16 not in running.ledger.keys)
