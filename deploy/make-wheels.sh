#!/bin/sh
# Make a folder from which weldwatch is installed without a network: carry it to the station and run install.sh in it.
# Every wheel is checked against the hashes in locks/, and requirements.txt carries them along: install.sh checks again.
set -eu

usage() {
    cat <<'USAGE'
usage: deploy/make-wheels.sh [options] FOLDER

  --python VERSION   of the station: 3.10, 3.11, 3.12 or 3.13 (default: that of python3 here)
  --machine NAME     of the station: x86_64 or aarch64 (default: this one's)
  --with EXTRA       camera (OpenCV: RTSP, USB, video files) or genicam; may be given twice
  --interpreter P    the Python that makes the folder (default: python3)

example, on a laptop for a Jetson with JetPack 6:
  deploy/make-wheels.sh --python 3.10 --machine aarch64 weldwatch-jetson
then on the station:
  sudo weldwatch-jetson/install.sh
USAGE
}

fail() {
    echo "make-wheels.sh: $1" >&2
    exit "${2:-1}"
}

interpreter=python3 version='' machine='' extras='' out=''
while [ $# -gt 0 ]; do
    case $1 in
        --python) version=${2:?--python needs a version}; shift ;;
        --machine) machine=${2:?--machine needs a name}; shift ;;
        --with) extras="$extras ${2:?--with needs a name}"; shift ;;
        --interpreter) interpreter=${2:?--interpreter needs a path}; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; fail "unknown option $1" 2 ;;
        *) [ -z "$out" ] || fail "one folder only: $out or $1?" 2; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || { usage >&2; fail "name the folder to make" 2; }

checkout=$(cd "$(dirname "$0")/.." && pwd)
[ -n "$version" ] || version=$("$interpreter" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
lock=$checkout/locks/demo-$version.txt
[ -f "$lock" ] || fail "weldwatch runs on Python 3.10 to 3.13, not $version; choose with --python" 2
names=''
for extra in $extras; do
    case $extra in
        camera) names="$names opencv-python-headless" ;;
        genicam) names="$names genicam harvesters" ;;
        *) fail "--with $extra: allowed are camera and genicam" 2 ;;
    esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# One entry of a lock file is a line that begins with a name, and the lines of hashes below it.
entries() { # FILE keep|drop NAME...
    file=$1 mode=$2
    shift 2
    awk -v mode="$mode" -v names=" $* " '
        /^[A-Za-z0-9]/ { split($1, part, "=="); listed = index(names, " " part[1] " ") > 0 }
        /^#/ { next }
        (mode == "keep") == listed { print }' "$file"
}
only_to_build='hatchling editables pathspec pluggy tomli tomlkit trove-classifiers'
# shellcheck disable=SC2086 # names without spaces
{
    entries "$lock" keep $only_to_build packaging > "$work/build.txt"
    entries "$lock" drop $only_to_build > "$work/requirements.txt"
}
if [ -n "$names" ]; then
    # shellcheck disable=SC2086 # names without spaces
    entries "$checkout/locks/test-$version.txt" keep $names >> "$work/requirements.txt"
fi

for_station="--python-version $version --only-binary=:all:"
if [ -n "$machine" ]; then
    case $machine in x86_64 | aarch64) ;; *) fail "--machine $machine: allowed are x86_64 and aarch64" 2 ;; esac
    minor=17 # what the wheels are built for: the glibc of Debian 12 and Ubuntu 22.04 runs all of these
    while [ $minor -le 35 ]; do
        for_station="$for_station --platform manylinux_2_${minor}_$machine"
        minor=$((minor + 1))
    done
    for_station="$for_station --platform manylinux2014_$machine"
fi

"$interpreter" -m venv "$work/venv" || fail "first: sudo apt install python3-venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
mkdir -p "$out"
rm -f "$out"/*.whl
echo "fetching wheels for Python $version${machine:+ on $machine}"
# shellcheck disable=SC2086 # a list of options
pip download $for_station --no-deps --require-hashes -r "$work/requirements.txt" -d "$out" ||
    fail "not all wheels could be had; see above"
pip install --require-hashes -r "$work/build.txt" || fail "hatchling, which builds the wheel, could not be had"
pip wheel --no-deps --no-build-isolation --no-index -w "$out" "$checkout" || fail "weldwatch's own wheel was not built"

{
    echo '# What install.sh puts on the station: written by deploy/make-wheels.sh'
    cat "$work/requirements.txt"
    for wheel in "$out"/weldwatch-*.whl; do
        name=$(basename "$wheel")
        hash=$(sha256sum "$wheel")
        rest=${name#weldwatch-}
        echo "weldwatch==${rest%%-*} --hash=sha256:${hash%% *}"
    done
} > "$out/requirements.txt"
cp "$checkout/deploy/install.sh" "$checkout/deploy/station.sh" "$checkout/config/agent.example.yaml" "$checkout/LICENSE" "$out/"
cp "$checkout"/systemd/weldwatch.service "$checkout"/systemd/weldwatch@.service "$out/"
echo "$out: $(find "$out" -name '*.whl' | wc -l) wheels, $(du -sh "$out" | cut -f1); on the station: sudo $out/install.sh"
