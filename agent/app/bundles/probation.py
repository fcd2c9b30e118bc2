"""The trial of a bundle as it stands on disk: one that takes the agent with it does not come up again.

    <state>/bundles/trial.json     the bundle, what judged before, and whether it judges; absent: none is on trial

Invariants
- Written and synced before the bundle is loaded to judge; removed when its trial is over, whichever way. One that was
  pointed at while no agent ran is on trial from the start on.
- ``judging`` is true from then on until an orderly end: a start that finds it true knows that the agent died.
- Died while the machine ran on: the bundle is to be taken back. Went the machine down with it, that may be the power:
  it is to be taken back the second time that this comes before ``PROVEN`` frames. A station that is switched off every
  night is none the worse.
- What cannot be written or read stops nothing: then a restart ends the trial, as is said.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.app.bundles.trial import Trial
from agent.errors import BundleError
from agent.health import Health
from agent.logs import log
from agent.model import judging
from agent.model.loading import Loaded, Trust, load
from agent.model.store import Store, resolve

PROVEN = 5  #: frames after which a power cut is not the bundle's
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_log = log("bundles")


class Term(msgspec.Struct, frozen=True):
    """``trial.json``."""

    bundle: str  #: path of the file on trial
    before: str  #: of the one to go back to
    usual: dict[str, float]  #: shares of bad frames before the swap
    boot: str  #: the kernel's id of its run
    judging: bool = True
    proven: bool = False  #: it has judged ``PROVEN`` frames since the start
    deaths: int = 0  #: with the machine, before that


class Probation:
    """Used by one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store, self._file = store, store.folder / "trial.json"
        self.term: Term | None = None

    def enter(self, wanted: Path | None) -> Term | None:
        """A start is about to load ``wanted``. The trial that it must not go on with, for the agent died in it."""
        term = self._read()
        if term is None or wanted is None or term.bundle != str(wanted):
            self.end()  # whoever has pointed elsewhere has decided
            if wanted is not None:
                self._begin_if_new(wanted)
            return None
        early = term.judging and not term.proven
        if term.judging and (term.boot == _boot() or (early and term.deaths)):
            return term
        deaths = term.deaths + early
        self._write(msgspec.structs.replace(term, boot=_boot(), judging=True, proven=False, deaths=deaths))
        return None

    def _begin_if_new(self, wanted: Path) -> None:
        """Pointed at while no agent ran, it is on trial against what judged last, if the pointer leads back there."""
        last, _ = judging.read(self._store.folder.parent)
        if last is None or last.path == str(wanted):
            return
        try:
            self._store.former(Path(last.path))
        except BundleError:
            return
        self.begin(wanted, Path(last.path), {})

    def resumed(self, loaded: Loaded, trust: Trust, health: Health) -> Trial | None:
        """The trial that an earlier process began with what is loaded now, and did not die in."""
        term = self.term
        if term is None:
            return None
        try:
            if term.bundle != str(loaded.path):
                raise BundleError("another bundle judges")
            return Trial(load(resolve(term.before, self._store), trust), health, term.usual)
        except BundleError as error:
            _log.warning("trial_untold: the trial of %s does not go on: %s", Path(term.bundle).stem, error)
            self.end()
            return None

    def begin(self, bundle: Path, before: Path, usual: dict[str, float]) -> None:
        """``bundle`` is about to judge."""
        self._write(Term(str(bundle), str(before), usual, _boot()))

    def prove(self, judged: int) -> None:
        """So many frames were judged since the start, or the swap."""
        if self.term is not None and not self.term.proven and judged >= PROVEN:
            self._write(msgspec.structs.replace(self.term, proven=True))

    def rest(self) -> None:
        """The agent ends in good order, or does not come to judging at all."""
        if self.term is not None:
            self._write(msgspec.structs.replace(self.term, judging=False))

    def end(self) -> None:
        """The trial is over."""
        self.term = None
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("trial_untold: %s: %s; remove the file", self._file, error.strerror)

    def _read(self) -> Term | None:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Term)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            _log.warning("trial_untold: %s: %s; a trial that was under way is over", self._file, error)
            return None

    def _write(self, term: Term) -> None:
        self.term = term
        try:
            self._store.write(self._file, term)
        except BundleError as error:
            _log.warning("trial_untold: %s; a restart ends the trial", error)


def _boot() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
