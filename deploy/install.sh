#!/bin/sh
# Install, upgrade or remove weldwatch on a station. Run it again whenever you like: what is there is left as it is.
#
#   /opt/weldwatch/<version>-<digest>/    one environment for each set of wheels, with its units; the one before is kept,
#                                         to go back to. `complete` in it, made last, holds the digest of each file
#   /opt/weldwatch/current                the one in use: a link, replaced in one step when the new one has passed its
#                                         test and takes this station's configuration and bundle
#   /etc/weldwatch/agent.yaml             the station's configuration: made once, never touched again
#   /etc/weldwatch/credentials/           secrets for LoadCredential, root's alone
#   /var/lib/weldwatch/                   ledger, bundles, results, captures: belong to user and group weldwatch
set -eu

usage() {
    cat <<'USAGE'
usage: sudo deploy/install.sh [options]          installs, or upgrades what is there

  --wheels FOLDER   take everything from a folder that deploy/make-wheels.sh made; no network is used. Default: the
                    folder of this script if it is such a folder, else wheels are fetched first
  --python P        the interpreter to use (default: python3; 3.10 to 3.13)
  --with EXTRA      camera or genicam, when wheels are fetched
  --no-start        neither enable nor start the service; what is off stays off without it, too
  --rollback        go back to the environment that was in use before
  --uninstall       remove program and service; configuration, state and results stay
  --uninstall --purge   remove these as well, and the user. Results that were not delivered are lost
USAGE
}

OPT=/opt/weldwatch UNITS=/etc/systemd/system COMMAND=/usr/local/bin/weldwatch
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=deploy/station.sh
. "$here/station.sh"

say() { echo "weldwatch: $1"; }
fail() {
    echo "install.sh: $1" >&2
    exit "${2:-1}"
}

wheels='' python=python3 extras='' start=yes action=install purge=no
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=${2:?--wheels needs a folder}; shift ;;
        --python) python=${2:?--python needs a path}; shift ;;
        --with) extras="$extras --with ${2:?--with needs a name}"; shift ;;
        --no-start) start=no ;;
        --upgrade) ;; # what is there decides
        --rollback) action=rollback ;;
        --uninstall) action=uninstall ;;
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "unknown option $1" 2 ;;
    esac
    shift
done
[ "$purge" = no ] || [ "$action" = uninstall ] || fail "--purge goes with --uninstall" 2
[ "$(id -u)" = 0 ] || fail "must be run as root: sudo $0" 2
[ ! -e /usr/share/weldwatch/agent.example.yaml ] ||
    fail "weldwatch is installed as a Debian package: upgrade and remove it with apt" 2

# Before anything is made: a link cannot be renamed over it.
[ "$action" = uninstall ] || [ ! -e "$OPT/current" ] || [ -L "$OPT/current" ] ||
    fail "$OPT/current is a folder made by hand: move it away (mv $OPT/current $OPT-by-hand), then run this again" 2

mkdir -p "$OPT"
exec 9< "$OPT"
flock -n 9 || fail "another install.sh is at work on this machine: wait until it has ended" 2

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# --- the environment -----------------------------------------------------------------------------------------------

check_python() {
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) ||
        fail "there is no $python; on Debian and Ubuntu: apt install python3-venv" 2
    case $version in
        3.10 | 3.11 | 3.12 | 3.13) ;;
        *) fail "weldwatch runs on Python 3.10 to 3.13, $python is $version; name another with --python" 2 ;;
    esac
    "$python" -c 'import ensurepip, venv' 2> /dev/null ||
        fail "$python cannot make environments; on Debian and Ubuntu: apt install python3-venv" 2
}

find_wheels() {
    if [ -z "$wheels" ] && [ -f "$here/requirements.txt" ]; then
        wheels=$here
    elif [ -z "$wheels" ]; then
        [ -x "$here/make-wheels.sh" ] || fail "name the folder of wheels with --wheels" 2
        wheels=$scratch/wheels
        say "fetching wheels for Python $version"
        # shellcheck disable=SC2086 # a list of options
        "$here/make-wheels.sh" --interpreter "$python" --python "$version" $extras "$wheels" > /dev/null
    fi
    [ -f "$wheels/requirements.txt" ] || fail "$wheels has no requirements.txt; make it with deploy/make-wheels.sh" 2
    wheels=$(cd "$wheels" && pwd)
    check_wheels
}

# Before anything is made: pip would say the same, in many lines.
check_wheels() {
    for wheel in "$wheels"/*.whl; do
        [ ! -f "$wheel" ] || sha256sum "$wheel"
    done | awk '
        part == "wheels" { here["--hash=sha256:" $1] = 1; next }
        /^[A-Za-z0-9]/ { if (name && !found) exit; name = $1; found = / ; / } # not every Python needs it
        { for (i = 1; i <= NF; i++) if ($i in here) found = 1 }
        END { if (!found) print name }' part=wheels - part=wanted "$wheels/requirements.txt" > "$scratch/missing"
    missing=$(cat "$scratch/missing")
    [ -z "$missing" ] || fail "$wheels: wheels and requirements.txt do not fit together: $missing is missing or was \
changed; carry the folder here once more, or make it anew with deploy/make-wheels.sh"
}

# The name holds a digest of all that goes in: the same is the same environment, anything else another one.
name_environment() {
    release=$(sed -n 's/^weldwatch==\([^ ]*\) .*/\1/p' "$wheels/requirements.txt")
    [ -n "$release" ] || fail "$wheels/requirements.txt does not name weldwatch; make the folder anew" 2
    service=$(find_file weldwatch.service "$here/../systemd/weldwatch.service")
    template=$(find_file weldwatch@.service "$here/../systemd/weldwatch@.service")
    example=$(find_file agent.example.yaml "$here/../config/agent.example.yaml")
    digest=$({
        cat "$wheels/requirements.txt" "$service" "$template"
        "$python" -c 'import sys; print(sys.version, sys.executable)'
    } | sha256sum)
    environment=$OPT/$release-$(echo "$digest" | cut -c1-8)
    # What is in use and damaged stays until another is whole.
    case $OPT/$(readlink "$OPT/current" || true) in
        "$environment") whole "$environment" || environment=$environment-again ;;
        "$environment-again") ! whole "$environment-again" || environment=$environment-again ;;
    esac
}

# Every file is as it was made, and its Python is there: a power cut empties files, an upgrade of the system takes the
# Python away.
whole() { # ENVIRONMENT
    [ -s "$1/complete" ] && (cd "$1" && sha256sum --check --status complete) 2> /dev/null &&
        case $("$1/bin/weldwatch" --version 2> /dev/null) in "weldwatch "[0-9]*) ;; *) return 1 ;; esac
}

make_environment() {
    if whole "$environment"; then
        say "$release is there already"
        return
    fi
    say "installing $release into $environment"
    rm -rf "$environment" # a half that an interrupted run has left
    mkdir -p "$OPT"
    chmod 0755 "$OPT"
    # Nothing that is read here is a secret, and the service's user must be able to read all of it.
    umask 022
    fill_environment || {
        rm -rf "$environment"
        fail "$why; nothing was changed"
    }
    # On the disk before it counts: a power cut after the switch must not find one that is only half there.
    (cd "$environment" && find . -type f ! -path ./complete -print0 | xargs -0 sha256sum > "$scratch/complete")
    cp "$scratch/complete" "$environment/complete.part"
    sync
    mv "$environment/complete.part" "$environment/complete"
    whole "$environment" || fail "$environment is not as it was made: is the disk full, or is something wrong with it?"
}

fill_environment() {
    why="the environment could not be made; see above"
    "$python" -m venv "$environment" || return 1
    "$environment/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --no-cache-dir --no-index \
        --find-links "$wheels" --only-binary=:all: --require-hashes -r "$wheels/requirements.txt" 2> "$scratch/pip" || {
        why="the wheels in $wheels do not fit Python $version on this machine: $(tail -n 1 "$scratch/pip")"
        return 1
    }
    mkdir "$environment/units" && cp "$service" "$template" "$environment/units/" && write_command || return 1
    why="the shipped bundle does not pass its self-test on this machine"
    "$environment/bin/weldwatch" bundle verify weld-demo > /dev/null
}

# A write that fails is seen here or nowhere: `set -e` is off in what `||` follows.
# In front of pip's own: who starts it, by hand or as the service, is told what to do when the Python is gone.
write_command() {
    real=$(readlink -f "$environment/bin/python") || return 1
    mv "$environment/bin/weldwatch" "$environment/bin/weldwatch.py" || return 1
    cat > "$environment/bin/weldwatch" <<COMMAND || return 1
#!/bin/sh
python=$environment/bin/python
[ -x "\$python" ] && [ "\$(readlink -f "\$python")" = "$real" ] || {
    echo "weldwatch: $real, the Python that it was installed with, is gone (was the system upgraded?): run install.sh again, it repairs this" >&2
    exit 2
}
exec "\$python" "$environment/bin/weldwatch.py" "\$@"
COMMAND
    chmod 0755 "$environment/bin/weldwatch"
}

# The one in use and the one before stay, and one that still runs: an agent reads files of its own for as long as it does.
tidy() {
    cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\0' '\n' > "$scratch/running" || true
    for one in "$OPT"/*/; do
        one=$(basename "$one")
        case $one in current | previous) continue ;; esac
        [ -e "$OPT/$one/pyvenv.cfg" ] || continue # not made here: somebody's own
        [ "$one" = "$(readlink "$OPT/current")" ] || [ "$one" = "$(readlink "$OPT/previous" || true)" ] ||
            grep -qF "$OPT/$one/" "$scratch/running" || rm -rf "${OPT:?}/$one"
    done
}

# --- the station ---------------------------------------------------------------------------------------------------

find_file() { # NAME PATH-IN-A-CHECKOUT
    for one in "$wheels/$1" "$here/$1" "$2"; do
        [ ! -f "$one" ] || { echo "$one"; return; }
    done
    fail "$wheels/$1 is missing; make the folder anew with deploy/make-wheels.sh"
}

# What is on now, was on when it was removed, or is to be on after the first installation. Before all of these: what a
# run wanted that was interrupted.
find_units() {
    first=no
    if [ -e "$PENDING" ]; then
        first=$(pending first) on=$(pending on) changed=yes
    elif [ -e "$UNITS/weldwatch.service" ] && systemd_runs; then
        on=$(units_on)
    elif [ -e "$STOPPED" ]; then
        on=$(cat "$STOPPED")
    else
        first=yes
        on=$(echo weldwatch.service; units_enabled)
    fi
}

pending() { sed -n "s/^$1 //p" "$PENDING"; } # KEY

# Written down before the switch: after it nothing else tells what was on, and which one has not been started yet.
write_pending() { # NAME
    back=$before
    [ "$action" != rollback ] || back=$1
    {
        printf '%s\n' "first $first" "before $before" "older $older" "back $back"
        for unit in $on; do echo "on $unit"; done
    } > "$PENDING.part"
    sync
    mv "$PENDING.part" "$PENDING"
}

# Why an environment does not run what this station runs, in one line; nothing when it does. A broker or a camera that
# is away is no reason.
refusal() { # ENVIRONMENT
    for unit in $({ echo "$on"; units_enabled; } | sort -u); do
        config=$(config_of "$unit") code=0
        env CREDENTIALS_DIRECTORY="/run/credentials/$unit" "$1/bin/weldwatch" check --config "$config" --json \
            > "$scratch/findings" 2> "$scratch/errors" || code=$?
        case $code in
            0 | 1) "$1/bin/python" -c 'import json, sys
for one in json.load(sys.stdin)["findings"]:
    if one["name"].startswith("bundle") and one["state"] == "failed":
        print(one["name"], one["detail"], sep=": ")' < "$scratch/findings" || echo "its check cannot be read" ;;
            *) tail -n 1 "$scratch/errors" | grep . || echo "its check of $config ended with $code" ;;
        esac
    done | head -n 1
}

# With its units. A link beside it, renamed over it: at every moment there is a whole environment in use.
switch_to() { # NAME PREVIOUS
    for unit in weldwatch.service weldwatch@.service; do
        cmp -s "$OPT/$1/units/$unit" "$UNITS/$unit" && continue
        install -m 0644 "$OPT/$1/units/$unit" "$UNITS/.$unit.part"
        sync
        mv "$UNITS/.$unit.part" "$UNITS/$unit"
        changed=yes
    done
    [ "$(readlink "$OPT/current" || true)" = "$1" ] || changed=yes
    ln -sfn "$1" "$OPT/.next"
    mv -T "$OPT/.next" "$OPT/current"
    if [ -n "$2" ] && [ "$2" != "$1" ]; then ln -sfn "$2" "$OPT/previous"; else rm -f "$OPT/previous"; fi
    ln -sfn "$OPT/current/bin/weldwatch" "$COMMAND"
    sync
    if systemd_runs; then systemctl daemon-reload; fi
}

# Take an environment into use. The one before is kept, and taken back when this one does not take the station's
# configuration or does not start.
take_up() { # NAME
    changed=no
    find_units
    find_before "$1"
    if [ -n "$before" ]; then
        refused=$(refusal "$OPT/$1")
        if [ -n "$refused" ]; then
            tidy
            fail "$1 does not run this station: $refused; nothing was changed, $(readlink "$OPT/current") is in use"
        fi
    fi
    [ "$start" = no ] || write_pending "$1"
    switch_to "$1" "${before:-$older}"
    rm -f "$STOPPED" # from here on it is what systemd says
    if ! bring_up 2> "$scratch/errors"; then
        [ -n "$before" ] || { rm -f "$PENDING"; cat "$scratch/errors" >&2; exit 1; }
        switch_to "$before" "$older"
        bring_up || true
        rm -f "$PENDING"
        tidy
        fail "$1 does not start ('journalctl -u weldwatch*' says why); $before is in use again"
    fi
    [ "$start" = no ] || rm -f "$PENDING"
    tidy
}

# The one to go back to, nothing when it does not run any more; and the one that --rollback led to until now.
find_before() { # NAME
    before=$(readlink "$OPT/current" || true) older=$(readlink "$OPT/previous" || true)
    [ ! -e "$PENDING" ] || before=$(pending before) older=$(pending older)
    if [ -z "$before" ] || [ "$before" = "$1" ] || ! whole "$OPT/$before"; then before=''; fi
}

# A service that runs what is installed already goes on running; one that somebody has switched off stays off.
bring_up() {
    if ! systemd_runs; then
        say "systemd does not run here: start it yourself: weldwatch run --config $ETC/agent.yaml"
        return
    fi
    [ "$start" = yes ] || return 0
    [ "$first" = no ] || systemctl enable --quiet --force weldwatch.service
    if [ "$changed" = yes ]; then start_units "$on" || return; fi
    [ -n "$on" ] || say "the service was off and stays off; to switch it on: sudo systemctl enable --now weldwatch"
}

do_install() {
    check_python
    find_wheels
    name_environment
    make_environment
    make_user
    make_folders "$example"
    take_up "$(basename "$environment")"
    say "$release is in use; make $ETC/agent.yaml yours, then: sudo weldwatch check && sudo systemctl restart weldwatch"
}

do_rollback() {
    back=''
    [ ! -e "$PENDING" ] || back=$(pending back)
    [ -n "$back" ] || back=$(readlink "$OPT/previous" || true)
    [ -n "$back" ] || fail "there is no environment to go back to in $OPT"
    whole "$OPT/$back" || fail "$OPT/$back does not run any more (its Python or files are gone); nothing was changed: \
to go back, run install.sh of the version that you want"
    take_up "$back"
    say "$(readlink "$OPT/current") is in use again"
}

do_uninstall() {
    if [ -e "$UNITS/weldwatch.service" ] && systemd_runs; then
        [ -z "$(units_on)" ] || rm -f "$STOPPED" # an older one; with nothing on it is that of a run that was interrupted
        stop_units
    fi
    rm -f "$UNITS/weldwatch.service" "$UNITS/weldwatch@.service"
    if systemd_runs; then systemctl daemon-reload; fi
    rm -rf "$OPT"
    [ "$(readlink "$COMMAND" || true)" != "$OPT/current/bin/weldwatch" ] || rm -f "$COMMAND"
    if [ "$purge" = no ]; then
        say "removed; $ETC, $VAR and the user weldwatch stay. To remove these too: $0 --uninstall --purge"
        return
    fi
    remove_station
    say "removed with configuration, state and results"
}

"do_$action"
