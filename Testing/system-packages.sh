#!/bin/sh
# Installs the Debian packages that some tests need, where they are missing and that is allowed.
# Never fails: without them those tests skip and say why.

wanted="dicom3tools dcmtk orthanc orthanc-dicomweb libegl1 libgl1 libxkbcommon0 libfontconfig1
libdbus-1-3 fonts-dejavu-core cmake"

if ! command -v dpkg >/dev/null || ! command -v apt-get >/dev/null; then
    echo "note: not a Debian system; tests skip where these (Debian's names) are missing:" $wanted
    exit 0
fi

is_installed() { dpkg -s "$1" 2>/dev/null | grep -q '^Status: .* installed$'; }

missing=""
for package in $wanted; do
    is_installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    echo "note: tests skip what they cannot run without: sudo apt-get install$missing"
    exit 0
fi

# One at a time where all at once fails: one unknown package must not keep the others away.
install() { $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -q --no-install-recommends "$@"; }
log=$(mktemp)
echo "installing Debian packages:$missing"
$as_root apt-get update -q >"$log" 2>&1 || true
if ! install $missing >>"$log" 2>&1; then
    for package in $missing; do
        install "$package" >>"$log" 2>&1 || true
    done
fi

# Debian starts an archive as a service on installation; the tests start their own on a free port.
case " $missing " in
*" orthanc "*)
    if is_installed orthanc; then
        if [ -d /run/systemd/system ]; then
            $as_root systemctl disable --now orthanc >>"$log" 2>&1 || true
        else
            $as_root service orthanc stop >>"$log" 2>&1 || true
        fi
    fi
    ;;
esac

left=""
for package in $missing; do
    is_installed "$package" || left="$left $package"
done
if [ -n "$left" ]; then
    echo "note: not installed, the tests that need them skip:$left ($(grep -m 1 '^E:' "$log" || echo 'apt-get failed'))"
fi
rm -f "$log"
