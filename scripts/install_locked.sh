#!/bin/sh
# Install the lock file $2 into the virtual environment $1: every file must have a hash that the lock names.
set -u
install() {
    "$1/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --no-binary docopt \
        --no-build-isolation -r "$2"
}
# What builds docopt is locked too: without isolation pip fetches nothing unnamed to build with.
install "$1" requirements-build.lock && install "$1" "$2" && exit 0
echo "$2 could not be installed: $("$1/bin/python" -VV 2>&1 | head -n 1) on $(uname -sm), see pip's reason above." >&2
echo "If a locked version has no wheel for this machine, take what fits, unchecked: add LOCKED=no to the command." >&2
exit 1
