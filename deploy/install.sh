#!/bin/sh
# Install, upgrade or remove weldwatch on a station. Run it again whenever you like: what is there is left as it is.
#
#   /opt/weldwatch/<version>-<digest>/    one environment for each set of wheels; the one before is kept, to go back to
#   /opt/weldwatch/current                the one in use: a link, replaced in one step when the new one has passed its test
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
  --no-start        neither enable nor start the service
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

wheels='' python=python3 extras='' start=yes action=install purge=no changed=no
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
        wheels=$(mktemp -d)
        trap 'rm -rf "$wheels"' EXIT
        say "fetching wheels for Python $version"
        # shellcheck disable=SC2086 # a list of options
        "$here/make-wheels.sh" --interpreter "$python" --python "$version" $extras "$wheels" > /dev/null
    fi
    [ -f "$wheels/requirements.txt" ] || fail "$wheels has no requirements.txt; make it with deploy/make-wheels.sh" 2
    wheels=$(cd "$wheels" && pwd)
}

# The name holds a digest of all that goes in: the same wheels are the same environment, other wheels another one.
name_environment() {
    release=$(sed -n 's/^weldwatch==\([^ ]*\) .*/\1/p' "$wheels/requirements.txt")
    [ -n "$release" ] || fail "$wheels/requirements.txt does not name weldwatch; make the folder anew" 2
    digest=$({ cat "$wheels/requirements.txt"; "$python" -c 'import sys; print(sys.version, sys.executable)'; } | sha256sum)
    environment=$OPT/$release-$(echo "$digest" | cut -c1-8)
}

make_environment() {
    if [ -e "$environment/complete" ]; then
        say "$release is there already"
        return
    fi
    say "installing $release into $environment"
    rm -rf "$environment" # a half that an interrupted run has left
    mkdir -p "$OPT"
    chmod 0755 "$OPT"
    # Nothing that is read here is a secret, and the service's user must be able to read all of it.
    umask 022
    "$python" -m venv "$environment" || fail "the environment could not be made; see above"
    "$environment/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --no-cache-dir --no-index \
        --find-links "$wheels" --only-binary=:all: --require-hashes -r "$wheels/requirements.txt" || {
        rm -rf "$environment"
        fail "the wheels in $wheels do not fit Python $version on this machine; see above"
    }
    "$environment/bin/weldwatch" bundle verify weld-demo > /dev/null || {
        rm -rf "$environment"
        fail "the shipped bundle does not pass its self-test on this machine; nothing was changed"
    }
    sync # a power cut after the switch must not find an environment that is only half on the disk
    touch "$environment/complete"
}

# A link beside it, renamed over it: at every moment there is a whole environment in use.
switch_to() {
    before=$(readlink "$OPT/current" || true)
    ln -sfn "$1" "$OPT/.next"
    mv -T "$OPT/.next" "$OPT/current"
    if [ "$before" != "$1" ]; then
        changed=yes
        [ -z "$before" ] || ln -sfn "$before" "$OPT/previous"
    fi
    ln -sfn "$OPT/current/bin/weldwatch" "$COMMAND"
}

# The one in use and the one before stay.
tidy() {
    for one in "$OPT"/*/; do
        one=$(basename "$one")
        case $one in current | previous) continue ;; esac
        [ "$one" = "$(readlink "$OPT/current")" ] || [ "$one" = "$(readlink "$OPT/previous" || true)" ] ||
            rm -rf "${OPT:?}/$one"
    done
}

# --- the station ---------------------------------------------------------------------------------------------------

first() {
    for one in "$@"; do
        [ ! -f "$one" ] || { echo "$one"; return; }
    done
    fail "$1 is missing; make the folder anew with deploy/make-wheels.sh"
}

install_units() {
    for unit in weldwatch.service weldwatch@.service; do
        from=$(first "$wheels/$unit" "$here/$unit" "$here/../systemd/$unit")
        cmp -s "$from" "$UNITS/$unit" && continue
        install -m 0644 "$from" "$UNITS/$unit"
        changed=yes
    done
}

# A service that runs what is installed already goes on running.
bring_up() {
    if ! systemd_runs; then
        say "systemd does not run here: start it yourself: weldwatch run --config $ETC/agent.yaml"
        return
    fi
    systemctl daemon-reload
    [ "$start" = yes ] || return 0
    # What was running before runs the new one now: the station, and others on this machine.
    [ "$changed" = no ] || systemctl try-restart weldwatch.service 'weldwatch@*.service'
    systemctl enable --quiet --now weldwatch.service
}

do_install() {
    check_python
    find_wheels
    name_environment
    make_environment
    make_user
    make_folders "$(first "$wheels/agent.example.yaml" "$here/agent.example.yaml" "$here/../config/agent.example.yaml")"
    install_units
    switch_to "$(basename "$environment")"
    tidy
    bring_up
    say "$release is in use; make $ETC/agent.yaml yours, then: sudo weldwatch check && sudo systemctl restart weldwatch"
}

do_rollback() {
    [ -e "$OPT/previous/complete" ] || fail "there is no environment to go back to in $OPT"
    switch_to "$(readlink "$OPT/previous")"
    bring_up
    say "$(readlink "$OPT/current") is in use again"
}

do_uninstall() {
    if systemd_runs; then
        systemctl disable --quiet --now weldwatch.service 2> /dev/null || true # not there: nothing to stop
        systemctl stop 'weldwatch@*.service'
    fi
    rm -f "$UNITS/weldwatch.service" "$UNITS/weldwatch@.service" "$UNITS/multi-user.target.wants/weldwatch.service"
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
