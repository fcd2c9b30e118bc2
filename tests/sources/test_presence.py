"""What the ledger may forget: only files that are gone for good, never those of a folder that is merely away."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from agent.clock import ManualClock
from agent.sources.presence import FORGET_S, Presence
from agent.sources.settling import Signature


class Forgetting:
    """A presence, a ledger of three keys, and scans of a folder that holds some of them."""

    def __init__(self, bench, *, may_be_empty: bool = False) -> None:
        self.ledger, self.clock = bench.ledger, ManualClock(datetime(2026, 11, 22, tzinfo=timezone.utc))
        self.ledger.keys = dict.fromkeys([b"a", b"b", b"c"])
        self.presence = Presence("captures", self.ledger, self.clock, may_be_empty=may_be_empty)

    def scan(self, *present: bytes, root: int = 1, clean: bool = True) -> set[bytes]:
        self.presence.same_root((1, root))
        named = self.presence.begin()
        for key in present:
            self.presence.meet(key, Signature(1, 1, 1), key if named else None)
        self.presence.end(clean=clean)
        self.clock.advance(FORGET_S)
        return set(self.ledger.keys)


def test_a_key_is_forgotten_when_two_scans_an_hour_apart_miss_it(bench):
    forgetting = Forgetting(bench)
    assert forgetting.scan(b"a", b"b") == {b"a", b"b", b"c"}  # the first scan of a folder never forgets
    assert forgetting.scan(b"a", b"b") == {b"a", b"b", b"c"}
    assert forgetting.scan(b"a", b"c") == {b"a", b"b", b"c"}  # c was only away for a moment
    assert forgetting.scan(b"a") == {b"a", b"c"}
    assert forgetting.scan(b"a") == {b"a"}


@pytest.mark.parametrize(
    ("present", "how"),
    [((), {}), ((b"a",), {"clean": False}), ((b"x",), {"root": 2})],
    ids=["empty", "partly unreadable", "another folder"],
)
def test_a_folder_that_is_not_itself_forgets_nothing(bench, present, how):
    forgetting = Forgetting(bench)
    forgetting.scan(b"a")
    for round_ in range(4):
        forgetting.scan(*present, **(how if round_ % 2 or "root" not in how else {}))
    assert set(bench.ledger.keys) == {b"a", b"b", b"c"}


def test_where_files_are_archived_an_empty_folder_is_the_rule(bench):
    forgetting = Forgetting(bench, may_be_empty=True)
    for _ in range(3):
        forgetting.scan()
    assert not bench.ledger.keys
