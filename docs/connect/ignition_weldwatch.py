"""Ignition: project library script "weldwatch". Jython 2.7, so no newer Python here.

take() puts a result into a table, each once. posted() is for WebDev and the station's webhook; tag_changed() for a tag
that holds the JSON of a result. The table, in any database that Ignition knows:

    CREATE TABLE weld_results (result_id VARCHAR(36) PRIMARY KEY, ledger_id VARCHAR(36), sequence BIGINT,
                               station VARCHAR(400), created_at VARCHAR(24), part_id VARCHAR(200),
                               evaluation VARCHAR(20), defect_class VARCHAR(200), body VARCHAR(8000))
"""

DATABASE = "plant"  # name of the database connection

INSERT = (
    "INSERT INTO weld_results "
    "(result_id, ledger_id, sequence, station, created_at, part_id, evaluation, defect_class, body) "
    "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM weld_results WHERE result_id = ?)"
)
BEFORE = "SELECT MAX(sequence) FROM weld_results WHERE ledger_id = ? AND sequence < ?"


def take(result):
    """Store a result; True where it is new. A gap in sequence is logged: that many results are missing."""
    station = "/".join(result["station"][level] for level in ("enterprise", "site", "area", "line", "name"))
    row = [result["result_id"], result["ledger_id"], result["sequence"], station, result["created_at"],
           result["part_id"], result["evaluation"], result["class"], system.util.jsonEncode(result)]  # fmt: skip
    if system.db.runPrepUpdate(INSERT, row + [result["result_id"]], DATABASE) == 0:
        return False
    before = system.db.runScalarPrepQuery(BEFORE, [result["ledger_id"], result["sequence"]], DATABASE)
    if before is not None and before != result["sequence"] - 1:
        line = "%s: MISSING %d to %d; they are in the daily log of the station"
        system.util.getLogger("weldwatch").warn(line % (station, before + 1, result["sequence"] - 1))
    return True


def posted(request):
    """For WebDev: doPost(request, session) of a resource is only `return weldwatch.posted(request)`.

    Answered after the row is stored. Where the database is away the script fails, WebDev answers 500, and the station
    keeps the result and tries again: nothing is lost, and nothing is stored twice.
    """
    result = request["data"]
    if not hasattr(result, "get") or result.get("schema") != "weldwatch.result/1":
        request["servletResponse"].setStatus(422)  # the station sets it aside and goes on with the next one
        return {"json": {"error": "not a weldwatch.result/1"}}
    return {"json": {"result_id": result["result_id"], "new": take(result)}}


def tag_changed(initial, value):
    """For a tag that holds the JSON. In its Value Changed event: weldwatch.tag_changed(initialChange, currentValue)."""
    if not initial and value.quality.isGood():
        take(system.util.jsonDecode(value.value))
