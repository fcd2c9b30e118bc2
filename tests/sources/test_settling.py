"""The complete-file guard as a state machine, by hand and by hypothesis."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.sources.settling import LOOK_AGAIN_S, Settling, Signature

SETTLE, INCOMPLETE = 0.5, 10.0
OLD = 3600.0


def signature(version: int = 1, mtime_ns: int = 0) -> Signature:
    return Signature(7, version, mtime_ns)


def test_fresh_waits_old_does_not():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"fresh", signature(), 100.0, 0.2)
    settling.sight(b"old", signature(), 100.0, OLD)
    assert settling.take().path == b"old"
    assert settling.take() is None
    assert abs(settling.next_due() - 100.3) < 1e-9


def test_a_time_in_the_future_is_watched():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(), 100.0, -50.0)
    assert settling.next_due() == 100.5


def test_a_change_that_claims_to_be_old_is_not_believed_beyond_the_last_look():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(1), 100.0, 0.0)
    settling.sight(b"a", signature(2), 100.2, OLD)  # copied with its old time kept: it changed within these 0.2 s
    assert settling.take() is None
    assert settling.next_due() == 100.5


def test_undecided_is_final_incomplete_s_after_its_last_change():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(), 100.0, 1.0)
    assert settling.undecided(settling.take().path, 100.0)
    for now in (100.5, 103.0, 108.9):
        assert settling.due(now) == [b"a"]
        settling.sight(b"a", signature(), now, now - 99.0)
        assert settling.take() is None
    assert settling.next_due() == 109.0
    assert settling.due(109.0) == [b"a"]
    settling.sight(b"a", signature(), 109.0, 10.0)
    assert not settling.undecided(settling.take().path, 109.0)


def test_where_the_clock_is_not_ours_incomplete_s_counts_from_the_first_sight():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(), 100.0, OLD)
    assert settling.undecided(settling.take().path, 100.0, trust_times=False)
    settling.sight(b"a", signature(), 110.0, OLD)
    assert not settling.undecided(settling.take().path, 110.0, trust_times=False)


def test_a_file_that_claims_to_be_old_and_was_just_touched_is_waited_for():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(), 100.0, OLD, 0.0)
    assert settling.undecided(settling.take().path, 100.0)
    settling.sight(b"a", signature(), 109.9, OLD, 2.9)  # written to, and its time set back again
    assert settling.due(110.0) == [b"a"]
    settling.sight(b"a", signature(), 110.0, OLD, 3.0)
    assert settling.undecided(settling.take().path, 110.0)
    settling.sight(b"a", signature(), 117.0, OLD, 10.0)
    assert not settling.undecided(settling.take().path, 117.0)


def test_a_change_time_from_the_future_is_not_waited_for():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(), 100.0, OLD, -OLD)
    assert not settling.undecided(settling.take().path, 100.0)


def test_a_file_without_permission_is_read_again_and_again():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(), 100.0, OLD)
    now = 100.0
    for _ in range(19):
        assert settling.undecided(settling.take().path, now, reread=True)
        now += LOOK_AGAIN_S
        assert settling.due(now) == [b"a"]
        settling.sight(b"a", signature(), now, OLD)
    now = 110.0
    assert not settling.undecided(settling.take().path, now, reread=True)


def test_what_was_put_back_is_ready_again_shortly():
    settling = Settling(SETTLE, INCOMPLETE)
    settling.sight(b"a", signature(), 100.0, OLD)
    settling.put_back(settling.take().path, 100.0)
    assert settling.take() is None
    assert settling.due(100.5) == [b"a"]
    settling.sight(b"a", signature(), 100.5, OLD)
    assert settling.take().path == b"a"


@given(st.lists(st.tuples(st.integers(-(10**18), 10**18), st.binary(min_size=1, max_size=4)), unique_by=lambda t: t[1]))
def test_ready_files_come_oldest_first_then_by_name(found):
    settling = Settling(SETTLE, INCOMPLETE)
    for mtime_ns, path in found:
        settling.sight(path, signature(mtime_ns=mtime_ns), 0.0, OLD)
    taken = []
    while (one := settling.take()) is not None:
        taken.append((one.signature.mtime_ns, one.path))
    assert taken == sorted(found)


class Guard(RuleBasedStateMachine):
    """Files change, time passes, the source looks when told to; a small model says what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.settling = Settling(SETTLE, INCOMPLETE)
        self.now = 1000.0
        self.version: dict[bytes, int] = {}
        self.changed: dict[bytes, float] = {}
        self.failed: dict[bytes, int] = {}
        self.handed_over: set[bytes] = set()

    @rule(path=st.sampled_from([b"a", b"b", b"c"]), heard=st.booleans())
    def change(self, path: bytes, heard: bool) -> None:
        if path in self.handed_over:
            return
        first = path not in self.version
        self.version[path] = self.version.get(path, 0) + 1
        self.changed[path] = self.now
        self.failed.pop(path, None)
        if heard or first:
            self.look(path)

    def look(self, path: bytes) -> None:
        version = self.version[path]
        self.settling.sight(path, signature(version), self.now, self.now - self.changed[path])

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.7, 3.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for path in self.settling.due(self.now):
            self.look(path)

    @rule(decodes=st.booleans())
    def take(self, decodes: bool) -> None:
        one = self.settling.take()
        if one is None:
            return
        assert one.path not in self.handed_over
        if one.signature != signature(self.version[one.path]):  # the source would see that it changed meanwhile
            self.settling.forget(one.path)
            self.look(one.path)
            return
        assert self.now - self.changed[one.path] >= SETTLE - 1e-6, "taken before it settled"
        if decodes:
            final = True
        else:
            assert (
                one.signature.size != self.failed.get(one.path)
                or self.now - self.changed[one.path] >= INCOMPLETE - 1e-6
            )
            self.failed[one.path] = one.signature.size
            final = not self.settling.undecided(one.path, self.now)
            assert final == (self.now - self.changed[one.path] >= INCOMPLETE), "given up too early or too late"
        if final:
            self.settling.forget(one.path)
            self.handed_over.add(one.path)

    @invariant()
    def nobody_is_lost(self) -> None:
        assert {path for path in self.version if path in self.settling} == set(self.version) - self.handed_over

    @invariant()
    def somebody_will_look(self) -> None:
        due = self.settling.next_due()
        if len(self.settling):
            assert due is not None
            assert due <= self.now + max(SETTLE, LOOK_AGAIN_S) + 1e-6

    @precondition(lambda self: len(self.settling) > 0)
    @rule()
    def patience_ends_it(self) -> None:
        """Left alone, everything is ready within ``incomplete_s``."""
        for _ in range(25):
            self.wait(0.5)
        waiting = {path for path in self.version if path in self.settling}
        while waiting and self.settling.has_ready():
            before = len(self.settling)
            self.take(decodes=True)
            if len(self.settling) == before:  # it changed unheard: once more
                self.wait(0.5)
        assert not len(self.settling)


TestGuard = Guard.TestCase
