"""Taking one grab in: decode, crop, save, say what it is.

Invariants
- The picture that is judged is the picture that was saved. One that cannot be saved is NotDecidable.
- A picture that did not change for ``frozen_s`` is NotDecidable. It is saved once, not with every result.
- What is damaged or does not hold the region is a problem, and saved as it came where it came encoded.
"""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta

from agent.clock import Clock
from agent.config import CameraConfig
from agent.errors import ImageError
from agent.frame import Frame, JobAt
from agent.health import Health
from agent.image import Picture, check_not_too_small
from agent.logs import log
from agent.result import new_result_id
from agent.sources.camera.feed import Fed
from agent.sources.camera.grabber import Grab
from agent.sources.camera.store import FrameStore, Saved

_log = log("sources")


class Taking:
    """Makes frames for one source, in its thread."""

    def __init__(
        self,
        config: CameraConfig,
        store: FrameStore,
        health: Health,
        clock: Clock,
        job_at: JobAt,
        *,
        simulated: bool,
    ) -> None:
        self._config, self._store, self._health = config, store, health
        self._clock, self._job_at, self._simulated = clock, job_at, simulated
        self._last: tuple[Grab, Saved] | None = None

    def frame(self, fed: Fed) -> Frame:
        """What this grab is worth; ``frame.problem.code`` says why it is worth nothing."""
        taken = self._clock.now() - timedelta(seconds=max(0.0, time.monotonic() - fed.grab.at))
        frozen = self._frozen(fed)
        if frozen is not None and self._last is not None and self._last[0].same_as(fed.grab):
            return self._frame(frozen, self._last[1], taken, 0.0)
        begin = time.monotonic()
        what: Picture | ImageError
        try:
            what = self._cropped(fed.grab.picture)
        except ImageError as error:
            self._health.count("camera_damaged")
            what = error
        decode_ms = (time.monotonic() - begin) * 1e3
        try:
            what, saved = self._save(fed.grab, what, taken)
        except OSError as error:
            return self._frame(self._unsaved(error), None, taken, decode_ms)
        self._health.over(f"camera_unsaved:{self._config.name}")
        if saved is not None:
            self._last = fed.grab, saved
        return self._frame(frozen or what, saved, taken, decode_ms)

    def none(self, detail: str) -> Frame:
        """The frame that was asked for and did not come."""
        return self._frame(ImageError("no_frame", detail), None, self._clock.now(), 0.0)

    def _save(
        self, grab: Grab, what: Picture | ImageError, taken: datetime
    ) -> tuple[Picture | ImageError, Saved | None]:
        """Save it; the picture as saved. ``OSError`` where that cannot be."""
        if grab.data is not None and (self._config.region is None or isinstance(what, ImageError)):
            return what, self._store.save(grab.data, "jpg", taken)
        if isinstance(what, ImageError):
            assert grab.pixels is not None
            data, suffix, _ = self._store.encode(Picture.from_array(grab.pixels))
            return what, self._store.save(data, suffix, taken)
        data, suffix, picture = self._store.encode(what)
        return picture, self._store.save(data, suffix, taken)

    def _unsaved(self, error: OSError) -> ImageError:
        name, why = self._config.name, f"{self._store.folder}: {error.strerror or error}"
        if self._health.raise_problem(f"camera_unsaved:{name}", why):
            _log.error("camera_unsaved: %s: %s; its frames are NotDecidable until they can be saved", name, why)
        return ImageError("frame_unsaved", why)

    def _cropped(self, picture: Picture) -> Picture:
        """The region of interest. ``ImageError`` where it does not lie within the picture, or too little is seen."""
        if self._config.region is None:
            check_not_too_small(picture.width, picture.height)
            return picture
        x, y, width, height = self._config.region
        if x + width > picture.width or y + height > picture.height:
            size = f"{picture.width}×{picture.height}"
            raise ImageError("region_outside", f"region {self._config.region} of a picture of {size}")
        return Picture(picture.image.crop((x, y, x + width, y + height)), width, height)

    def _frozen(self, fed: Fed) -> ImageError | None:
        name = self._config.name
        problem = f"camera_frozen:{name}"
        if not 0 < self._config.frozen_s <= fed.frozen_s:
            self._health.over(problem)
            return None
        self._health.count("camera_frozen")
        detail = f"the same picture, pixel for pixel, for {fed.frozen_s:.1f} s"
        if self._health.raise_problem(problem, detail):
            _log.error("camera_frozen: %s: %s; restart the camera", name, detail)
        return ImageError("frozen_image", detail)

    def _frame(self, what: Picture | ImageError, saved: Saved | None, taken: datetime, decode_ms: float) -> Frame:
        return Frame(
            source=self._config.name,
            name=saved.name if saved else self._store.stem(taken),
            key=os.urandom(16),  # a camera's frame comes once
            captured_at=taken,
            captured_from="camera",
            picture=what if isinstance(what, Picture) else None,
            problem=what if isinstance(what, ImageError) else None,
            sha256=saved.sha256 if saved else None,
            bytes=saved.bytes if saved else None,
            identity=self._job_at(taken),
            decode_ms=decode_ms,
            simulated=self._simulated,
            result_id=new_result_id(int(self._clock.now().timestamp() * 1e3)),
        )
