"""What a weld camera really shows, drawn anew for every frame and epoch: light, focus, noise and where the camera
stands.

Invariants: a function of (frames, seed) and nothing else, so a resumed training sees the frames that an undisturbed one
would have seen; gray levels stay in 0…1; labels are untouched, so nothing here may hide or make a defect.
"""

from __future__ import annotations

from typing import Any

from training.recipe import Augment


def augment(frames: Any, seed: Any, recipe: Augment) -> Any:
    """`frames` float32 [b, h, w, 1] in 0…1 and `seed` int32 [2] to as many altered ones. To be called in a
    tf.function.
    """
    import tensorflow as tf

    batch = tf.shape(frames)[0]
    draws = iter(range(100))

    def uniform(low: float, high: float, *shape: int) -> Any:
        """[b, *shape] numbers; each call has its own stream."""
        own = seed + tf.constant([0, next(draws) * 1_000_003], seed.dtype)
        return tf.random.stateless_uniform(tf.stack([batch, *shape]), own, low, high)

    frames = _move(frames, uniform, recipe)
    if recipe.blur:
        frames = _blend(frames, _blurred(frames), uniform(0, recipe.blur, 1, 1, 1))
    if recipe.halo:
        frames += _glow(frames, uniform) * uniform(0, recipe.halo, 1, 1, 1)
    gain = tf.exp(uniform(-recipe.exposure, recipe.exposure, 1, 1, 1))
    exponent = tf.exp(uniform(-recipe.gamma, recipe.gamma, 1, 1, 1))
    frames = tf.pow(tf.clip_by_value(frames * gain, 1e-4, 1.0), exponent)
    if recipe.noise:
        own = seed + tf.constant([1, 17], seed.dtype)
        frames += tf.random.stateless_normal(tf.shape(frames), own) * uniform(0, recipe.noise, 1, 1, 1)
    return tf.clip_by_value(frames, 0.0, 1.0)


def _move(frames: Any, uniform: Any, recipe: Augment) -> Any:
    """Shift, turn, zoom and mirror about the centre, in one bilinear step."""
    import tensorflow as tf

    if not (recipe.shift or recipe.turn or recipe.zoom or recipe.mirror):
        return frames
    height, width = frames.shape[1], frames.shape[2]
    angle = uniform(-1, 1) * (recipe.turn * 3.14159265 / 180)
    scale = tf.exp(uniform(-recipe.zoom, recipe.zoom))
    flip = tf.where(uniform(-1, 1) < 0, -1.0, 1.0) if recipe.mirror else tf.ones_like(angle)
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    a, b, c, d = cos * flip, -sin, sin * flip, cos
    dx, dy = uniform(-recipe.shift, recipe.shift) * width, uniform(-recipe.shift, recipe.shift) * height
    mx, my = (width - 1) / 2, (height - 1) / 2
    zero = tf.zeros_like(a)
    rows = tf.stack([a, b, mx - a * mx - b * my + dx, c, d, my - c * mx - d * my + dy, zero, zero], axis=1)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=frames, transforms=rows, output_shape=[height, width], fill_value=0.0, interpolation="BILINEAR",
        fill_mode="NEAREST",
    )  # fmt: skip


def _blurred(frames: Any) -> Any:
    """A 3×3 binomial blur; the border is continued, not darkened."""
    import tensorflow as tf

    kernel = tf.reshape(tf.constant([1, 2, 1, 2, 4, 2, 1, 2, 1], tf.float32) / 16, [3, 3, 1, 1])
    return tf.nn.conv2d(tf.pad(frames, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC"), kernel, 1, "VALID")


def _glow(frames: Any, uniform: Any) -> Any:
    """A round glow of peak 1 around a random spot of each frame, as wide as 0.1 to 0.5 of it."""
    import tensorflow as tf

    y = tf.linspace(0.0, 1.0, frames.shape[1])[None, :, None, None]
    x = tf.linspace(0.0, 1.0, frames.shape[2])[None, None, :, None]
    distance = tf.square(x - uniform(0, 1, 1, 1, 1)) + tf.square(y - uniform(0, 1, 1, 1, 1))
    return tf.exp(-distance / (2 * tf.square(uniform(0.1, 0.5, 1, 1, 1))))


def _blend(one: Any, other: Any, share: Any) -> Any:
    return one + (other - one) * share
