"""The one door to harvesters: GenICam cameras through their maker's GenTL producer. Loaded in the driver process only.

Invariant: a frame's buffer is given back to the camera before the frame is handed on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from agent.sources.camera.pixels import to_8_bit
from agent.sources.camera.wire import DriverError, Settings


class GenicamStream:
    """A ``wire.Stream`` over harvesters."""

    def __init__(self, settings: Settings) -> None:
        from harvesters.core import Harvester

        producer = Path(settings.producer or "")
        if not producer.is_file():
            raise DriverError(f"producer {producer}: no such file")
        self._timeout_s, self._harvester = settings.timeout_s, Harvester()
        self._camera: Any = None
        try:
            self._harvester.add_file(str(producer), check_existence=True, check_validity=True)
            self._harvester.update()
            self._camera = self._harvester.create(self._find(settings.target))
            self._camera.start()
        except BaseException:
            self.close()
            raise

    def _find(self, wanted: str) -> int:
        """The camera whose serial number or id is ``wanted``; the only one where nothing is."""
        found = []
        for index, info in enumerate(self._harvester.device_info_list):
            names = (str(info.serial_number), str(info.id_))
            if wanted in names:
                return index
            found.append(" or ".join(names))
        if not wanted and len(found) == 1:
            return 0
        raise DriverError(f"no camera {wanted!r}; the producer sees {', '.join(found) or 'none'}")

    def read(self) -> tuple[np.ndarray, float | None] | None:
        """As ``wire.Stream``."""
        buffer = self._camera.try_fetch(timeout=self._timeout_s)
        if buffer is None:
            raise DriverError(f"no frame for {self._timeout_s:g} s")
        with buffer:
            parts = buffer.payload.components
            if not parts:
                raise DriverError("the camera sends no image")
            image = parts[0]
            return to_8_bit(str(image.data_format), image.data, int(image.height), int(image.width)), None

    def close(self) -> None:
        """As ``wire.Stream``."""
        if self._camera is not None:
            self._camera.destroy()
            self._camera = None
        self._harvester.reset()
