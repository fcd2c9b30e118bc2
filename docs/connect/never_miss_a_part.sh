#!/usr/bin/env bash
# Take every result of a line into a file, and know at any time whether one is missing. Needs mosquitto_sub and jq.
#
#   BROKER=broker.example never_miss_a_part.sh listen     take what stations publish into inbox.jsonl, until stopped
#   never_miss_a_part.sh report                           what is there and what is missing; exit code 1 if any
#   never_miss_a_part.sh add results/2026-11-22.jsonl     fill what is missing from a station's daily log
#
# mosquitto_sub acknowledges a message before its line is on the disk, so a kill can cost some. They are not lost: they
# show as a gap in `sequence`, and the station's daily log fills it. The Python example loses none in the first place.
set -euo pipefail
inbox=${INBOX:-inbox.jsonl}

listen() {
    # Whatever was cut in half by a kill gets its line end, so that it spoils no other line.
    [ ! -s "$inbox" ] || [ -z "$(tail -c 1 "$inbox")" ] || echo >> "$inbox"
    exec mosquitto_sub -V 5 -h "$BROKER" -p "${PORT:-1883}" -q 1 -t "${TOPIC:-weldwatch/+/+/+/+/+/result}" \
        -c -i "${CLIENT_ID:-line-shell}" -x 604800 >> "$inbox"
}

report() {
    # Each line by itself: what is no JSON is passed over, what came twice counts once.
    local said
    said=$(jq -R 'fromjson? | select(.schema? == "weldwatch.result/1")' "$inbox" | jq -r -s '
        unique_by(.result_id)
        | (group_by([.station, .evaluation])[] | "\(.[0].station.name): \(length) \(.[0].evaluation)"),
          (group_by(.ledger_id)[] | sort_by(.sequence) | [., .[1:]] | transpose[]
           | select(.[1] != null and .[1].sequence > .[0].sequence + 1)
           | "\(.[0].station.name): MISSING \(.[0].sequence + 1) to \(.[1].sequence - 1), made after \(.[0].created_at)")')
    printf '%s\n' "$said"
    [[ $said != *MISSING* ]]
}

case "${1:-}" in
    listen) listen ;;
    report) report ;;
    add) shift && cat -- "$@" >> "$inbox" ;;
    *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
