"""A ledger with very many results that nobody has delivered yet, made by SQL in seconds."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import msgspec

from agent.clock import SystemClock
from agent.ledger import Ledger
from agent.ledger.database import FILE
from tests.support.results import a_result


def fill(state: Path, count: int, sinks: dict[str, int]) -> str:
    """Put ``count`` results (1.1 kB each) into a new ledger, the sinks' cursors where ``sinks`` says; its id.

    Each differs in sequence, result id and image name; all else is the same result over and over.
    """
    ledger = Ledger.open(state, SystemClock())
    ledger.register(list(sinks))
    ledger.close()
    name, one = "old/@@@@@@@@.png", "00000000-0000-7000-8000-0000@@@@@@@@"
    result = a_result(name, result_id=one, ledger_id=ledger.ledger_id, sequence=77_777_777)
    body = msgspec.json.encode(result).decode()
    assert json.loads(body)["sequence"] == 77_777_777
    values = {"count": count, "name": name, "id": one, "body": body, "created": result.created_at}
    with contextlib.closing(sqlite3.connect(state / FILE, isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -200000")
        connection.execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count) "
            "INSERT INTO results SELECT n, replace(:id, '@@@@@@@@', printf('%08d', n)), :created, "
            "replace(:name, '@@@@@@@@', printf('%08d', n)), NULL, 'NotOK', "
            "CAST(replace(replace(:body, '@@@@@@@@', printf('%08d', n)), '77777777', n) AS BLOB) FROM n",
            values,
        )
        for sink, cursor in sinks.items():
            connection.execute("UPDATE sinks SET cursor = ? WHERE name = ?", (cursor, sink))
    return ledger.ledger_id
