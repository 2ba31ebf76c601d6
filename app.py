"""Entry of the page: ``python app.py`` here, and the app file of a Hugging Face Space. The same as ``tokviz serve``."""

from __future__ import annotations

import sys

from tokviz import cli


def main() -> None:
    """Serve the page until SIGINT or SIGTERM."""
    sys.exit(cli.main(["serve"]))


if __name__ == "__main__":
    main()
