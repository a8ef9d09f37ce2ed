#!/bin/sh
# Makes .venv with the tested pins. With no machine-wide change other than Debian packages, and these only as root.
set -eu

if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "setup: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2
    exit 2
fi

missing=""
if command -v dpkg-query >/dev/null 2>&1; then
    for package in ${DEBS:-}; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
    done
fi
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    else
        echo "setup: a window needs these packages; please install them: sudo apt-get install$missing" >&2
    fi
fi

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --constraint constraints.txt torch hatchling editables
.venv/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[desktop]'
.venv/bin/python tools/dev_requirements.py | xargs .venv/bin/python -m pip install --quiet --constraint constraints.txt
