#!/bin/sh
# Build the Debian package, on the release that it is for (its Python is the station's). Needs no root.
#
#   /opt/weldwatch/<version>/    the environment, whole; /opt/weldwatch/current leads to it
#   /usr/bin/weldwatch, /lib/systemd/system/weldwatch.service and weldwatch@.service
#   /etc/weldwatch/agent.yaml    no conffile: made from the example when it is missing, and never touched again
set -eu

usage() {
    cat <<'USAGE'
usage: deploy/build-deb.sh [--wheels FOLDER] [--python P] FOLDER

  --wheels FOLDER   take everything from a folder that deploy/make-wheels.sh made; default: fetch it
  --python P        the release's own interpreter (default: /usr/bin/python3)

writes FOLDER/weldwatch_<version>_<architecture>.deb; install it with: sudo apt install ./weldwatch_….deb
USAGE
}

fail() {
    echo "build-deb.sh: $1" >&2
    exit "${2:-1}"
}

wheels='' python=/usr/bin/python3 out=''
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=${2:?--wheels needs a folder}; shift ;;
        --python) python=${2:?--python needs a path}; shift ;;
        -h | --help) usage; exit 0 ;;
        -*) usage >&2; fail "unknown option $1" 2 ;;
        *) [ -z "$out" ] || fail "one folder only: $out or $1?" 2; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || { usage >&2; fail "name the folder for the package" 2; }
here=$(cd "$(dirname "$0")" && pwd)
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ -z "$wheels" ]; then
    wheels=$work/wheels
    "$here/make-wheels.sh" --interpreter "$python" "$wheels"
fi
release=$(sed -n 's/^weldwatch==\([^ ]*\) .*/\1/p' "$wheels/requirements.txt")
[ -n "$release" ] || fail "$wheels/requirements.txt does not name weldwatch; make the folder anew" 2
minor=$("$python" -c 'import sys; print(sys.version_info[1])')

root=$work/root final=/opt/weldwatch/$release
environment=$root$final
mkdir -p "$environment"
"$python" -m venv "$environment" || fail "first: sudo apt install python3-venv"
"$environment/bin/python" -m pip --isolated install --quiet --disable-pip-version-check --no-cache-dir --no-compile \
    --no-index --find-links "$wheels" --only-binary=:all: --require-hashes -r "$wheels/requirements.txt"
"$environment/bin/python" -m pip --isolated uninstall --quiet --yes pip setuptools
# It was made here and will live there: scripts and settings name the place.
grep -rlIF "$root" "$environment" | xargs -r sed -i "s|$root||g"
find "$environment" -name __pycache__ -prune -exec rm -rf {} +
"$python" -m compileall -q -j 0 -s "$root" -p / "$environment/lib" > /dev/null
! grep -rqF "$work" "$environment" || fail "the environment still names the folder that it was made in"

mkdir -p "$root/usr/bin" "$root/lib/systemd/system" "$root/usr/share/weldwatch" "$root/usr/share/doc/weldwatch"
ln -s "$release" "$root/opt/weldwatch/current"
ln -s /opt/weldwatch/current/bin/weldwatch "$root/usr/bin/weldwatch"
cp "$wheels"/weldwatch.service "$wheels"/weldwatch@.service "$root/lib/systemd/system/"
cp "$wheels/agent.example.yaml" "$root/usr/share/weldwatch/"
cp "$wheels/LICENSE" "$root/usr/share/doc/weldwatch/copyright"

mkdir "$root/DEBIAN"
for script in preinst postinst prerm postrm; do
    {
        printf '#!/bin/sh\nset -e\n'
        cat "$here/station.sh" "$here/debian/$script"
    } > "$root/DEBIAN/$script"
    chmod 0755 "$root/DEBIAN/$script"
done
architecture=$(dpkg --print-architecture)
cat > "$root/DEBIAN/control" <<CONTROL
Package: weldwatch
Version: $release
Architecture: $architecture
Maintainer: The weldwatch authors <weldwatch@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: python3 (>= 3.$minor~), python3 (<< 3.$((minor + 1))), passwd
Section: science
Priority: optional
Description: inspection agent of a weld camera station
 Watches a capture folder or a camera, judges every weld frame locally with an
 ONNX model, and delivers class, probabilities and verdict as JSON to MQTT and
 to disk. The bundle that ships is trained on synthetic frames and must not
 judge real welds.
CONTROL
mkdir -p "$out"
package=$out/weldwatch_${release}_$architecture.deb
dpkg-deb --root-owner-group -Zzstd -z9 --build "$root" "$package" > /dev/null
echo "$package: $(du -h "$package" | cut -f1)"
