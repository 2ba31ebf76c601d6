"""What the documentation's build does beside MkDocs: line counts that are always true, and links out of ``docs/``.

``{lines:tokviz/types.py}`` in a page becomes the number of lines of that file. Links to files that are not part of the
site (``../benchmarks/fidelity.md``) become plain text, as the site has no address for them; images from outside
``docs/`` are copied in.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_LINES = re.compile(r"\{lines:([\w./-]+)\}")
_OUTSIDE = re.compile(r"(!?)\[([^\]]*)\]\((?:\.\./)+([\w./-]+)\)")
_IMAGES = ("benchmarks/fidelity.png",)


def on_files(files: Files, config: Any) -> Files:
    """Add the images that pages show from outside ``docs/``, and the page's icon."""
    for path in _IMAGES:
        files.append(File.generated(config, f"images/{Path(path).name}", abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, "favicon.png", abs_src_path=str(ROOT / "assets" / "favicon.png")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in line counts and resolve links out of the site."""
    up = "../" * page.file.src_uri.count("/")

    def outside(match: re.Match[str]) -> str:
        is_image, text, path = match.groups()
        if is_image:
            return f"![{text}]({up}images/{Path(path).name})"
        return f"{text.strip('`')} (`{path}`)" if Path(path).name not in text else f"`{path}`"

    markdown = _LINES.sub(lambda match: _count(match.group(1)), markdown)
    return _OUTSIDE.sub(lambda match: outside(match) if not _in_site(page, match.group(3)) else match.group(), markdown)


def _count(name: str) -> str:
    """Lines of a file, or of a folder's Python files. Raises FileNotFoundError, so that no page outlives a move."""
    path = ROOT / name
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return f"{sum(len(file.read_text().splitlines()) for file in files):,}"


def _in_site(page: Any, path: str) -> bool:
    return (ROOT / "docs" / Path(page.file.src_uri).parent / ".." / path).resolve().is_relative_to(ROOT / "docs")
