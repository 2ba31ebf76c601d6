#!/bin/sh
# Write the lock files from the requirements: exact versions with the hashes of every file, for Linux, macOS and Windows
# and Python 3.11 and newer. Versions stay as they are while they fit; `make lock UPGRADE=1` takes the newest.
# The locks of `make test` come first: what `make run` installs is what was tested.
set -eu
python=$1
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$python" -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9

compile() {
    # No settings of this machine, no name of an index: only versions and hashes are written.
    "$tools/bin/uv" pip compile --quiet --no-config ${UPGRADE:+--upgrade} --universal --python-version 3.11 \
        --generate-hashes --only-binary :all: --no-binary docopt \
        --custom-compile-command "make lock" "$@"
}

compile requirements-dev.txt --output-file requirements-dev.lock
compile requirements.txt --constraint requirements-dev.lock --output-file requirements.lock
compile requirements-build.txt --constraint requirements-dev.lock --output-file requirements-build.lock
