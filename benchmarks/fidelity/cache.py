"""Stored outcomes: one small file per model, chunk of scenes and variant, written whole or not at all. No torch.

An outcome depends on the weights, the scenes and the variant; all three are in the file's place and in its first line.
It depends on the methods' code too: use another folder after changing that.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokviz import __version__
from tokviz.errors import BadInput
from tokviz.files import UNFINISHED, write_whole

from .outcomes import EarlierFormat, Header, Outcome, Variant, from_lines, to_lines
from .questions import scenes_digest

_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template*",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab*",
    "merges.txt",
    "*.safetensors",
    "*.bin",
)
_BEING_WRITTEN_S = 3600.0
"""How old an unfinished file must be to have been left behind, in seconds; writing one takes far less."""
_MEANING = 1
"""Changes when the same stored outcome would mean something else, and makes all outcomes be made again."""


def fingerprint(folder: Path) -> str:
    """Changes with the weights, configuration, tokenizer, template and preprocessing in a model folder, with the way
    scenes are drawn, and with the version of tokviz."""
    digest = hashlib.sha256(f"{_MEANING} {__version__} {scenes_digest()}".encode())
    for path in sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"\n{path.name} ".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:24]


@dataclass(frozen=True)
class Complete:
    """What a table is made of. seconds: what making these outcomes took, on all workers together."""

    outcomes: dict[Variant, list[Outcome]]
    scenes: int
    seconds: float


class OutcomeCache:
    """The files of one model under a folder. Several processes may write different files at the same time."""

    def __init__(self, folder: Path, model: str) -> None:
        self.model = model
        self.folder = folder / model

    def path(self, first_seed: int, variant: Variant) -> Path:
        """Where the outcomes of the chunk that begins at ``first_seed`` lie."""
        return self.folder / str(first_seed) / variant.file_name

    def read(self, first_seed: int, variant: Variant) -> tuple[Header, list[Outcome]] | None:
        """What is stored, None when nothing is. Raises BadInput for a damaged or foreign file."""
        path = self.path(first_seed, variant)
        try:
            header, outcomes = from_lines(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, EarlierFormat):
            return None
        except (BadInput, OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The stored outcomes {path} cannot be used; delete that file. ({error})") from error
        if (header.fingerprint, header.first_seed, header.variant) != (self.model, first_seed, variant):
            raise BadInput(f"The stored outcomes {path} belong elsewhere; delete that file.")
        return header, outcomes

    def scenes(self, chunk: range, variant: Variant) -> int:
        """How many scenes of a chunk, from its first one on, are stored."""
        stored = self.read(chunk.start, variant)
        return 0 if stored is None else min(stored[0].scenes, len(chunk))

    def add(self, chunk: range, variant: Variant, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Store the outcomes of the scenes of ``chunk`` that were not stored yet, up to its end.

        Nothing is stored twice: what another run has stored in the meantime stays as it is.
        """
        stored = self.read(chunk.start, variant)
        if stored is not None:
            if stored[0].scenes >= len(chunk):
                return
            known = range(chunk.start, chunk.start + stored[0].scenes)
            fresh = [outcome for outcome in outcomes if outcome.seed not in known]
            outcomes, seconds = [*stored[1], *fresh], stored[0].seconds + seconds
        header = Header(self.model, chunk.start, len(chunk), variant, round(seconds, 4))
        path = self.path(chunk.start, variant)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, to_lines(header, outcomes).encode())
        except OSError as error:
            reason = (error.strerror or "unknown reason").lower()
            raise BadInput(
                f"The outcomes cannot be stored in the cache: {reason}. What was stored until then is kept; the same "
                "command goes on there."
            ) from error

    def sweep(self) -> None:
        """Remove what killed processes left unfinished. What others are writing now is young, and stays."""
        oldest = time.time() - _BEING_WRITTEN_S
        for path in self.folder.glob(f"*/*{UNFINISHED}"):
            with contextlib.suppress(FileNotFoundError):  # finished or swept by somebody else
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def complete(self, chunks: Sequence[range], variants: Sequence[Variant]) -> Complete:
        """Outcomes on the scenes that all variants have."""
        found: dict[Variant, list[Outcome]] = {variant: [] for variant in variants}
        n_scenes, seconds = 0, 0.0
        for chunk in chunks:
            have = min((self.scenes(chunk, variant) for variant in variants), default=0)
            n_scenes += have
            for variant in variants:
                stored = self.read(chunk.start, variant)
                if stored is not None and have:
                    found[variant] += [outcome for outcome in stored[1] if outcome.seed in chunk[:have]]
                    seconds += stored[0].seconds * have / stored[0].scenes
        return Complete(found, n_scenes, seconds)
