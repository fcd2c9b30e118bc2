"""What a training is at the end of an epoch, kept so that a kill costs one epoch at most.

    <run>/checkpoint.npz     state-N: weights, random states, optimizer; best-N: best weights; facts: TrainingRecord
    <run>/tensorboard/       the history as TensorBoard reads it

Invariant: a checkpoint appears whole or not at all, and is taken over only by a training of the same recipe and data.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.errors import UsageError

CHECKPOINT = "checkpoint.npz"


class EpochFacts(msgspec.Struct, frozen=True):
    """One epoch: losses in nats, the area under the ROC curve on validation frames."""

    epoch: int
    loss: float | None
    val_loss: float | None  #: None without validation frames
    val_auc: float | None
    rate: float


class TrainingRecord(msgspec.Struct, frozen=True):
    """training.json."""

    recipe: str  #: digest
    data: str  #: digest
    history: list[EpochFacts]
    best: int  #: epoch whose weights are kept; 0 is the head alone
    seconds: float
    made_with: dict[str, str]


class State:
    """What a training is at the end of an epoch; on disk as one file."""

    def __init__(self, recipe: str, data: str) -> None:
        self.recipe, self.data = recipe, data
        self.history: list[EpochFacts] = []
        self.best_weights: list[NDArray[Any]] = []

    @property
    def best(self) -> EpochFacts:
        """The epoch with the least validation loss; the last one where nothing is validated."""
        known = [(one.val_loss, one) for one in self.history if one.val_loss is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else self.history[-1]

    def note(self, model: Any, facts: EpochFacts) -> None:
        """Take an epoch into the history; keep its weights if it is the best."""
        self.history.append(facts)
        if self.best is facts:
            self.best_weights = model.get_weights()

    def enter(self, run: Path, model: Any, resume: bool) -> None:
        """Take over the checkpoint of `run` if there is one and it is wanted. Raises UsageError where it is not
        ours.
        """
        path = run / CHECKPOINT
        if not resume or not path.exists():
            return
        with np.load(path) as stored:
            facts = msgspec.json.decode(stored["facts"].tobytes(), type=TrainingRecord)
            if (facts.recipe, facts.data) != (self.recipe, self.data):
                raise UsageError(f"{run}: holds a training of another recipe or other data; name a new folder")
            self.history = facts.history
            variables = _variables(model)
            for number, variable in enumerate(variables):
                variable.assign(stored[f"state-{number}"])
            self.best_weights = [stored[f"best-{number}"] for number in range(len(model.get_weights()))]

    def save(self, run: Path | None, model: Any) -> None:
        """Write the checkpoint, whole or not at all, and tell TensorBoard."""
        if run is None:
            return
        facts = TrainingRecord(self.recipe, self.data, self.history, self.best.epoch, 0.0, {})
        arrays = {f"state-{number}": np.asarray(one) for number, one in enumerate(_variables(model))}
        arrays |= {f"best-{number}": one for number, one in enumerate(self.best_weights)}
        arrays["facts"] = np.frombuffer(msgspec.json.encode(facts), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stubs mix the names with allow_pickle
        part = run / f"{CHECKPOINT}.part"
        part.write_bytes(buffer.getbuffer())
        part.replace(run / CHECKPOINT)
        _tensorboard(run, self.history[-1])


def _variables(model: Any) -> list[Any]:
    """Everything that changes while fitting: weights, the dropout's random state, the optimizer."""
    return [*model.variables, *model.optimizer.variables]


def _tensorboard(run: Path, facts: EpochFacts) -> None:
    """Scalars as protocol buffers by hand: tf.summary.scalar would want the tensorboard package installed."""
    import tensorflow as tf

    summary = tf.compat.v1.Summary()
    for name in ("loss", "val_loss", "val_auc", "rate"):
        value = getattr(facts, name)
        if value is not None:
            summary.value.add(tag=name, simple_value=value)
    writer = tf.summary.create_file_writer(str(run / "tensorboard"))
    with writer.as_default(step=facts.epoch):
        tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=facts.epoch)
    writer.close()
