"""The one door to Aravis: GigE Vision and USB3 Vision cameras without a maker's driver. In the driver process only.

Aravis is a C library that Debian ships (``libaravis-0.8-0``); what is needed of it is called through ``ctypes``, so
that it works with every Python and no compiler.

Invariants: every object that Aravis gives is unreferenced once; a buffer goes back to the stream before the next is
taken; a camera that we do not control any more (``control-lost``) is an error at the next frame.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any

import numpy as np

from agent.sources.camera.pixels import to_8_bit
from agent.sources.camera.wire import DriverError, Settings

LIBRARY = "libaravis-0.8.so.0"
_BUFFERS = 8
_SUCCESS = 0  #: ARV_BUFFER_STATUS_SUCCESS
_FORMATS = {0x01080001: "Mono8", 0x01100003: "Mono10", 0x01100005: "Mono12", 0x01100025: "Mono14",
            0x01100007: "Mono16", 0x02180014: "RGB8", 0x02180015: "BGR8"}  # fmt: skip


class _Error(ctypes.Structure):
    """GError."""

    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


_ERROR = POINTER(POINTER(_Error))
#: Name, result, arguments. Those that end in _ERROR say on failure why.
_CALLS: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
    ("arv_camera_new", c_void_p, (c_char_p, _ERROR)),
    ("arv_camera_create_stream", c_void_p, (c_void_p, c_void_p, c_void_p, _ERROR)),
    ("arv_camera_get_payload", c_uint, (c_void_p, _ERROR)),
    ("arv_camera_start_acquisition", None, (c_void_p, _ERROR)),
    ("arv_camera_stop_acquisition", None, (c_void_p, _ERROR)),
    ("arv_camera_is_gv_device", c_int, (c_void_p,)),
    ("arv_camera_get_device", c_void_p, (c_void_p,)),
    ("arv_gv_device_is_controller", c_int, (c_void_p,)),
    ("arv_buffer_new", c_void_p, (c_size_t, c_void_p)),
    ("arv_stream_push_buffer", None, (c_void_p, c_void_p)),
    ("arv_stream_timeout_pop_buffer", c_void_p, (c_void_p, c_uint64)),
    ("arv_buffer_get_status", c_int, (c_void_p,)),
    ("arv_buffer_get_data", c_void_p, (c_void_p, POINTER(c_size_t))),
    ("arv_buffer_get_image_pixel_format", c_uint32, (c_void_p,)),
    ("arv_buffer_get_image_width", c_int, (c_void_p,)),
    ("arv_buffer_get_image_height", c_int, (c_void_p,)),
    ("g_object_unref", None, (c_void_p,)),
    ("g_error_free", None, (c_void_p,)),
)


class _Aravis:
    """The library's functions, each with its types."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise DriverError(f"{error}; apt install libaravis-0.8-0") from None
        self._functions: dict[str, Any] = {}
        for name, result, arguments in _CALLS:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Call one; ``DriverError`` with what the library says where it fails."""
        function = self._functions[name]
        if function.argtypes[-1] is not _ERROR:
            return function(*arguments)
        error = POINTER(_Error)()
        value = function(*arguments, byref(error))
        if error:
            text = (error.contents.message or b"").decode(errors="replace")
            self._functions["g_error_free"](error)
            raise DriverError(text)
        return value


class AravisStream:
    """A ``wire.Stream`` over Aravis."""

    def __init__(self, settings: Settings) -> None:
        self._call = _Aravis()
        self._timeout_us = int(settings.timeout_s * 1e6)
        self._camera = self._stream = None
        try:
            self._camera = self._call("arv_camera_new", settings.target.encode() or None)
            if not self._camera:
                raise DriverError(f"no camera {settings.target!r} answers on this network")
            self._stream = self._call("arv_camera_create_stream", self._camera, None, None)
            if not self._stream:
                raise DriverError("the camera gives no stream")
            size = self._call("arv_camera_get_payload", self._camera)
            for _ in range(_BUFFERS):
                self._call("arv_stream_push_buffer", self._stream, self._call("arv_buffer_new", size, None))
            self._call("arv_camera_start_acquisition", self._camera)
        except BaseException:
            self.close()
            raise

    def read(self) -> tuple[np.ndarray, float | None] | None:
        """As ``wire.Stream``. Frames of which packets were lost are passed over."""
        for _ in range(_BUFFERS):
            buffer = self._call("arv_stream_timeout_pop_buffer", self._stream, self._timeout_us)
            if not buffer:
                raise DriverError(f"no frame for {self._timeout_us / 1e6:g} s")
            try:
                if self._call("arv_buffer_get_status", buffer) == _SUCCESS:
                    return self._pixels(buffer), None
            finally:
                self._call("arv_stream_push_buffer", self._stream, buffer)
            self._must_control()
        raise DriverError("packets of every frame are lost; look at cable, switch and packet size")

    def _must_control(self) -> None:
        if self._call("arv_camera_is_gv_device", self._camera):
            device = self._call("arv_camera_get_device", self._camera)
            if not self._call("arv_gv_device_is_controller", device):
                raise DriverError("control of the camera is lost; does another program use it?")

    def _pixels(self, buffer: int) -> np.ndarray:
        size = c_size_t()
        data = self._call("arv_buffer_get_data", buffer, byref(size))
        code = self._call("arv_buffer_get_image_pixel_format", buffer)
        width = self._call("arv_buffer_get_image_width", buffer)
        height = self._call("arv_buffer_get_image_height", buffer)
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size.value).from_address(data))
        return to_8_bit(_FORMATS.get(code, f"format {code:#010x}"), raw, height, width)

    def close(self) -> None:
        """As ``wire.Stream``."""
        if self._stream:
            try:
                self._call("arv_camera_stop_acquisition", self._camera)
            except DriverError:
                pass  # it is out of reach: there is nothing to stop
            self._call("g_object_unref", self._stream)
        if self._camera:
            self._call("g_object_unref", self._camera)
        self._camera = self._stream = None
