#!/bin/sh
# Print the path of a Chromium for the browser tests: the system's, else Debian's package (as root), else Playwright's
# own download. Argument: the Python of the virtual environment. One sentence and exit 1 if there is none.
set -u
python=$1

find_system() {
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        path=$(command -v "$name" 2>/dev/null) && { printf '%s\n' "$path"; return 0; }
    done
    return 1
}

if [ -n "${TOKVIZ_CHROMIUM:-}" ] && [ -x "$TOKVIZ_CHROMIUM" ]; then printf '%s\n' "$TOKVIZ_CHROMIUM"; exit 0; fi
find_system && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } >&2 && find_system && exit 0
fi
if "$python" -m playwright install chromium >&2; then
    "$python" -c 'from playwright.sync_api import sync_playwright as s
with s() as p: print(p.chromium.executable_path)' && exit 0
fi
echo "No Chromium for the browser tests: install one (Debian: apt-get install chromium) or set TOKVIZ_CHROMIUM to its path." >&2
exit 1
