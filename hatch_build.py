"""What the build adds to pyproject.toml: the README without its head, which is Hugging Face's configuration."""

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class CustomMetadataHook(MetadataHookInterface):
    """Hatchling finds it by this name."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the long description of the package."""
        _, _, text = (Path(self.root) / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        metadata["readme"] = {"content-type": "text/markdown", "text": text.lstrip()}
