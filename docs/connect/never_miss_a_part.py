"""Take every result of a line into a table, each once, and know at any time whether one is missing.

    python3 never_miss_a_part.py listen --host broker.example     take what stations publish, until it is stopped
    python3 never_miss_a_part.py report                           what is there and what is missing; exit code 1 if any
    python3 never_miss_a_part.py add results/2026-11-22.jsonl     fill what is missing from a station's daily log

Needs paho-mqtt 2 and Python 3.10 or newer. Four rules make it safe; keep them in whatever you write instead:

1. A message is acknowledged after it is committed, never before: what a kill interrupts comes again.
2. result_id is the key of the table: what comes again changes nothing.
3. sequence has no gaps within one ledger_id: a gap is a result that is missing, and it is found by looking.
4. The session outlives this program: the broker keeps what comes while it is away.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
from pathlib import Path

import paho.mqtt.client as mqtt

TABLES = """
CREATE TABLE IF NOT EXISTS results (
    result_id TEXT PRIMARY KEY, ledger_id TEXT NOT NULL, sequence INTEGER NOT NULL, station TEXT NOT NULL,
    created_at TEXT NOT NULL, part_id TEXT, evaluation TEXT NOT NULL, simulated INTEGER NOT NULL, body TEXT NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS by_sequence ON results (ledger_id, sequence);
CREATE TABLE IF NOT EXISTS odd (arrived TEXT DEFAULT CURRENT_TIMESTAMP, origin TEXT, body BLOB);
-- A part is good when all its frames are. What nobody could decide, or a word we do not know, is never good.
CREATE VIEW IF NOT EXISTS parts AS
    SELECT part_id, count(*) AS frames,
           CASE WHEN sum(evaluation = 'NotOK') THEN 'NotOK'
                WHEN sum(evaluation != 'OK') THEN 'NotDecidable'
                ELSE 'OK' END AS verdict
    FROM results WHERE part_id IS NOT NULL AND NOT simulated GROUP BY part_id;
CREATE VIEW IF NOT EXISTS gaps AS
    SELECT station, ledger_id, sequence + 1 AS first, following - 1 AS last, created_at AS after
    FROM (SELECT *, lead(sequence) OVER (PARTITION BY ledger_id ORDER BY sequence) AS following FROM results)
    WHERE following > sequence + 1;
"""


def main() -> int:
    """Run one of the three commands."""
    options = arguments()
    table = sqlite3.connect(options.database)
    table.execute("PRAGMA journal_mode = WAL")
    table.execute("PRAGMA synchronous = FULL")  # a commit is on the disk
    table.executescript(TABLES)
    if options.command == "listen":
        return listen(table, options)
    if options.command == "add":
        for file in options.files:
            with file.open("rb") as lines:
                taken = sum(take(table, line, str(file)) is not None for line in lines)
            print(f"{file}: {taken} were missing")
        return 0
    return report(table)


def take(table: sqlite3.Connection, body: bytes, origin: str) -> dict | None:
    """Commit one result and return it. None where it is there already, or is no result: that is kept for a person."""
    try:
        one = json.loads(body)
        if one["schema"] != "weldwatch.result/1":
            raise ValueError(one["schema"])
        station = "/".join(one["station"][level] for level in ("enterprise", "site", "area", "line", "name"))
        row = (one["result_id"], one["ledger_id"], one["sequence"], station, one["created_at"], one["part_id"],
               one["evaluation"], one["simulated"], body.decode())  # fmt: skip
        places = ", ".join("?" * len(row))
        with table:
            done = table.execute(f"INSERT INTO results VALUES ({places}) ON CONFLICT (result_id) DO NOTHING", row)
        return one if done.rowcount else None
    except (ValueError, KeyError, TypeError, sqlite3.IntegrityError) as error:
        print(f"{origin}: not a result, kept in the table odd: {error!r}", file=sys.stderr)
        with table:
            table.execute("INSERT INTO odd (origin, body) VALUES (?, ?)", (origin, body))
        return None


def gap_before(table: sqlite3.Connection, one: dict) -> str:
    """A line where the result that comes before this one is not there, else nothing."""
    ledger, sequence = one["ledger_id"], one["sequence"]
    query = "SELECT max(sequence) FROM results WHERE ledger_id = ? AND sequence < ?"
    (before,) = table.execute(query, (ledger, sequence)).fetchone()
    if sequence == 1 or before == sequence - 1:
        return ""
    if before is None:
        return f"{one['station']['name']}: first heard at sequence {sequence}; what came before is in its daily logs"
    return f"{one['station']['name']}: MISSING {before + 1} to {sequence - 1}; add its daily log to fill it"


def listen(table: sqlite3.Connection, options: argparse.Namespace) -> int:
    """Take what arrives, until SIGTERM or Ctrl-C. A broker that is away is tried again for ever."""
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2, client_id=options.client_id, protocol=mqtt.MQTTv5, manual_ack=True
    )
    if options.username:
        client.username_pw_set(options.username, os.environ.get("MQTT_PASSWORD"))
    if options.ca:
        client.tls_set(options.ca)
    client.reconnect_delay_set(1, 30)
    kept = mqtt.Properties(mqtt.PacketTypes.CONNECT)
    kept.SessionExpiryInterval = options.keep_days * 86_400

    @client.connect_callback()
    def connected(client, userdata, flags, reason, properties):
        print(f"connected: {reason}{', with what came meanwhile' if flags.session_present else ''}", file=sys.stderr)
        client.subscribe(options.topic, qos=1)

    @client.subscribe_callback()
    def subscribed(client, userdata, mid, reasons, properties):
        if any(reason.is_failure for reason in reasons):
            print(f"{options.topic}: the broker refuses: {reasons[0]}; look at its access list", file=sys.stderr)
        else:
            print(f"listening to {options.topic}", file=sys.stderr)

    @client.message_callback()
    def arrived(client, userdata, message):
        one = take(table, message.payload, message.topic)
        if one and (gap := gap_before(table, one)):
            print(gap, file=sys.stderr)
        client.ack(message.mid, message.qos)

    signal.signal(signal.SIGTERM, lambda *_: client.disconnect())
    client.connect_async(options.host, options.port, clean_start=False, properties=kept)
    client.loop_forever(retry_first_connection=True)
    return 0


def report(table: sqlite3.Connection) -> int:
    """What is there, what is missing, what was odd."""
    for row in table.execute("SELECT station, evaluation, count(*) FROM results GROUP BY 1, 2 ORDER BY 1, 2"):
        print(f"{row[0]}: {row[2]} {row[1]}")
    gaps = table.execute("SELECT station, first, last, after FROM gaps ORDER BY 1, 2").fetchall()
    for station, first, last, after in gaps:
        print(f"{station}: MISSING {first} to {last}, made after {after}; add the daily log of that day")
    odd = table.execute("SELECT count(*) FROM odd").fetchone()[0]
    if odd:
        print(f"{odd} messages were no results: SELECT * FROM odd")
    return 1 if gaps or odd else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Take every result of a line into SQLite, and know what is missing.")
    parser.add_argument("--database", default="parts.sqlite3")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("listen", help="take what stations publish, until it is stopped")
    one.add_argument("--host", required=True)
    one.add_argument("--port", type=int, default=1883)
    one.add_argument("--topic", default="weldwatch/+/+/+/+/+/result")
    one.add_argument("--client-id", default="line-mes", help="never the same for two programs")
    one.add_argument("--keep-days", type=int, default=7, help="how long the broker keeps results while we are away")
    one.add_argument("--username", help="its password is in $MQTT_PASSWORD")
    one.add_argument("--ca", help="PEM file of the authority to trust; with it the line is encrypted")
    commands.add_parser("report", help="what is there and what is missing; exit code 1 if any")
    one = commands.add_parser("add", help="fill what is missing from daily logs")
    one.add_argument("files", nargs="+", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
