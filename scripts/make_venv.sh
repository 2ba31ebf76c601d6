#!/bin/sh
# Create the virtual environment $1 with the first Python >= 3.11 that really runs ($PYTHON overrides the search).
set -u
venv=$1

for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13 python3.14}; do
    # A version manager leaves shims for Pythons that are not installed: run each, do not only find it.
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    "$candidate" -m venv "$venv" >/dev/null 2>&1 && exit 0
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then # Debian ships Python without ensurepip
        { apt-get update -qq && apt-get install -y -qq python3-venv; } >&2 && "$candidate" -m venv --clear "$venv" && exit 0
    fi
    echo "$candidate could not create a virtual environment: install its venv module (Debian: apt-get install python3-venv)." >&2
    exit 1
done
echo "tokviz needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python3." >&2
exit 1
