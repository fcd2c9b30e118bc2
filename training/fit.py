"""Fitting: the head on cached features, then everything at a low rate, with batch norm frozen.

    <run>/checkpoint.npz     all that goes on: weights, optimizer, best weights so far, history
    <run>/model.keras        the best model, when done
    <run>/training.json      recipe and data digests, history, versions
    <run>/tensorboard/       the same history as TensorBoard reads it

Invariants
- A checkpoint appears whole or not at all, after every epoch. Frame order and augmentation are functions of (seed,
  epoch), so a training that was killed and resumed is the undisturbed one within seed noise.
- The validation recordings choose the epoch and nothing of test is seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import FatalError
from training import statistics
from training.augment import augment
from training.checkpoint import EpochFacts, State, TrainingRecord
from training.dataset import Frames
from training.network import EMBEDDING, LOGITS, build
from training.recipe import Recipe, Train, digest

MODEL, FACTS = "model.keras", "training.json"
_BIG = 256

#: Told of each step: what is done, how much of how much, and a few words.
Tell = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Fitted:
    """A fitted keras.Model and how it came to be."""

    model: Any
    record: TrainingRecord


def quiet(_what: str, _done: int, _total: int, _words: str) -> None:
    """Tells nobody."""


def fit(
    train: Frames, val: Frames | None, recipe: Recipe, run: Path | None, *, data_digest: str, resume: bool = False,
    tell: Tell = quiet,
) -> Fitted:  # fmt: skip
    """Fit on `train`, choose the epoch on `val` (None: keep the last); keeps checkpoints in `run` (None: nothing).

    Raises UsageError where `run` holds another training, FatalError where the loss is no number any more.
    """
    import keras

    started = time.monotonic()
    keras.utils.set_random_seed(recipe.seed)
    keras.mixed_precision.set_global_policy("mixed_float16" if recipe.train.mixed_precision else "float32")
    try:
        with _strategy().scope():
            model = build(recipe.model, size=recipe.data.preprocessing.size)
            model.compile(optimizer=_optimizer(recipe, len(train)), loss=_loss(recipe), jit_compile=False)
            model.optimizer.build(model.trainable_variables)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    state = State(digest(recipe), data_digest)
    if run is not None:
        run.mkdir(parents=True, exist_ok=True)
        state.enter(run, model, resume)
    if not state.history:
        fit_head(model, train, recipe, tell)
        state.note(model, EpochFacts(0, None, *_validate(model, val), 0.0))
        state.save(run, model)
    _fine_tune(model, train, val, recipe, state, run, tell)
    model.set_weights(state.best_weights)
    record = TrainingRecord(
        state.recipe, state.data, state.history, state.best.epoch, time.monotonic() - started, versions()
    )
    if run is not None:
        model.save(run / MODEL)
        (run / FACTS).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    return Fitted(model, record)


def _fine_tune(
    model: Any, train: Frames, val: Frames | None, recipe: Recipe, state: State, run: Path | None, tell: Tell
) -> None:
    for epoch in range(len(state.history), recipe.train.epochs + 1):
        if val is not None and epoch - 1 - state.best.epoch >= recipe.train.patience:
            break
        steps = -(-len(train) // recipe.train.batch)
        told = _Told(tell, f"epoch {epoch} of {recipe.train.epochs}", steps).callback()
        batches = _batches(train, recipe, epoch)
        seen = model.fit(batches, epochs=1, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[told])
        loss = float(seen.history["loss"][0])
        if not np.isfinite(loss):
            raise FatalError(f"epoch {epoch}: the loss is {loss}; lower train.rate in the recipe and start again")
        rate = float(np.asarray(model.optimizer.learning_rate))
        state.note(model, EpochFacts(epoch, loss, *_validate(model, val), rate))
        state.save(run, model)
        last = state.history[-1]
        if val is not None:
            words = f"loss {last.val_loss:.3f}, AUC {last.val_auc:.3f} on validation"
            tell("epoch", epoch, recipe.train.epochs, words)


def fit_head(model: Any, train: Frames, recipe: Recipe, tell: Tell = quiet) -> None:
    """Set the head by logistic regression on the backbone's features; the rest stays as it is."""
    blocks = [embed(model, train.gray, tell=tell)]
    for copy in range(recipe.train.head_copies):
        blocks.append(embed(model, train.gray, seed=(recipe.seed, copy + 1), recipe=recipe, tell=tell))
    slope, offset = head(np.concatenate(blocks), train, recipe)
    # The margin (defect minus good) shared between the two logits, so that both start alike.
    kernel, bias = np.stack([-slope, slope], axis=1) / 2, np.array([-offset, offset]) / 2
    model.get_layer(LOGITS).set_weights([kernel.astype(np.float32), bias.astype(np.float32)])


def head(features: NDArray[np.float32], train: Frames, recipe: Recipe) -> tuple[NDArray[np.float64], float]:
    """Slope [c] and offset of the margin by logistic regression on embeddings [m n, c]: m copies of the n frames."""
    from sklearn.linear_model import LogisticRegression

    # One scale for all: scaling each feature by itself would raise those that hardly move, and with them noise.
    # Centred, because the solver stops early on features that share a large mean.
    mean = features.mean(axis=0)
    centred = features - mean
    scale = float(np.sqrt(np.mean(np.square(centred)))) or 1.0
    copies = len(features) // len(train)
    found = LogisticRegression(C=recipe.train.head_strength, max_iter=2000)
    found.fit(centred / scale, np.tile(train.label, copies), np.tile(frame_weights(train, recipe.train), copies))
    slope = np.asarray(found.coef_[0] / scale, dtype=np.float64)
    return slope, float(found.intercept_[0] - slope @ mean)


def frame_weights(train: Frames, recipe: Train) -> NDArray[np.float64]:
    """How much each frame counts while fitting, float [n] of mean 1."""
    weights = np.ones(len(train))
    if recipe.recording_weights:
        _, number, count = np.unique(train.recording, return_inverse=True, return_counts=True)
        weights /= count[number]
    if recipe.class_weights:
        for label in (0, 1):
            mine = train.label == label
            weights[mine] /= max(weights[mine].sum(), 1e-9)
    return np.asarray(weights / weights.mean())


def embed(
    model: Any, gray: NDArray[np.uint8], *, seed: tuple[int, int] | None = None, recipe: Recipe | None = None,
    tell: Tell = quiet,
) -> NDArray[np.float32]:  # fmt: skip
    """Embeddings float32 [n, c] of frames uint8 [n, h, w]; with `seed` of an augmented copy of each."""
    import keras
    import tensorflow as tf

    inner = keras.Model(model.input, model.get_layer(EMBEDDING).output)
    found = []
    for start in range(0, len(gray), _BIG):
        frames = _to_float(gray[start : start + _BIG])
        if seed is not None and recipe is not None:
            frames = augment(frames, tf.constant([seed[0], seed[1] * 7919 + start]), recipe.train.augment)
        found.append(np.asarray(inner(tf.repeat(frames, 3, axis=3), training=False)))
        tell("features", min(start + _BIG, len(gray)), len(gray), "")
    return np.concatenate(found)


def margins(model: Any, gray: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Logit of defect minus logit of no defect, float64 [n], of frames uint8 [n, h, w]."""
    import tensorflow as tf

    found = []
    for start in range(0, len(gray), _BIG):
        frames = tf.repeat(_to_float(gray[start : start + _BIG]), 3, axis=3)
        logits = np.asarray(model(frames, training=False), dtype=np.float64)
        found.append(logits[:, 1] - logits[:, 0])
    return np.concatenate(found) if found else np.zeros(0)


def versions() -> dict[str, str]:
    """Versions of the libraries that the result depends on."""
    import keras
    import tensorflow as tf

    return {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__}


def _validate(model: Any, val: Frames | None) -> tuple[float | None, float | None]:
    """Log loss with both classes weighing the same, and AUC."""
    if val is None:
        return None, None
    margin = margins(model, val.gray)
    weights = np.where(val.bad, 0.5 / max(val.bad.sum(), 1), 0.5 / max((~val.bad).sum(), 1))
    loss = statistics.log_loss(margin, val.bad, weights=weights)
    return loss, float(statistics.auc(margin, val.bad)[0])


def _to_float(gray: NDArray[np.uint8]) -> Any:
    import tensorflow as tf

    return tf.constant(gray.astype(np.float32)[..., None] / np.float32(255))


def _batches(train: Frames, recipe: Recipe, epoch: int) -> Any:
    """One epoch of (frames [b,h,w,3], labels [b,2], weights [b]) in an order that (seed, epoch) decides."""
    import tensorflow as tf

    order = np.random.default_rng(np.random.SeedSequence([recipe.seed, epoch, 5])).permutation(len(train))
    weight = frame_weights(train, recipe.train)
    seeds = np.stack([np.full(len(order), recipe.seed), np.arange(len(order)) + epoch * 1_000_003], axis=1)
    gray, labels, weights = train.gray[order], np.eye(2, dtype=np.float32)[train.label[order]], weight[order]
    parts = (gray, labels, weights.astype(np.float32), seeds.astype(np.int32))

    def ready(frames: Any, label: Any, weight: Any, seed: Any) -> Any:
        scaled = tf.cast(frames, tf.float32)[..., None] / 255.0
        return tf.repeat(augment(scaled, seed[0], recipe.train.augment), 3, axis=3), label, weight

    batches = tf.data.Dataset.from_tensor_slices(parts).batch(recipe.train.batch)
    plain = tf.autograph.experimental.do_not_convert(ready)  # it is TensorFlow already; converting costs seconds
    return batches.map(plain, num_parallel_calls=2, deterministic=True).prefetch(2)


def _optimizer(recipe: Recipe, frames: int) -> Any:
    import keras

    steps = -(-frames // recipe.train.batch) * max(recipe.train.epochs, 1)
    warm = max(1, steps // 20)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm), warmup_target=recipe.train.rate, warmup_steps=warm
    )
    return keras.optimizers.AdamW(rate, weight_decay=recipe.train.weight_decay, clipnorm=1.0)


def _loss(recipe: Recipe) -> Any:
    import keras

    return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.train.label_smoothing)


def _strategy() -> Any:
    """All GPUs together where there are several, else what TensorFlow takes by itself."""
    import tensorflow as tf

    several = len(tf.config.list_physical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


class _Told:
    """Keras tells of batches through a callback, which is a class of its own."""

    def __init__(self, tell: Tell, what: str, steps: int) -> None:
        self._tell, self._what, self._steps = tell, what, steps

    def callback(self) -> Any:
        import keras

        def told(batch: int, logs: object = None) -> None:  # noqa: ARG001  # Keras passes it by name
            self._tell(self._what, batch + 1, self._steps, "")

        return keras.callbacks.LambdaCallback(on_train_batch_end=told)
