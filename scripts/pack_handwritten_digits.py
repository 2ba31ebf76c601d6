"""Pack scikit-learn's handwritten digits into ``scenes/handwritten_digits.npz``, the file that scenes draw from.

    python -m scripts.pack_handwritten_digits           # write the file again
    python -m scripts.pack_handwritten_digits --check   # only compare it with what would be written

Needs scikit-learn, which tokviz itself does not (``pip install scikit-learn`` anywhere and put it on PYTHONPATH).

The images are the test part of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository, CC BY 4.0, https://doi.org/10.24432/C50P49. Changed here: levels of 0..16 are stored as whole
numbers of one byte; nothing else.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scenes.lettering import HANDWRITING_FILE
from tokviz.errors import BadInput

IMAGES_SHAPE = (1797, 8, 8)
BRIGHTEST = 16


def load_digit_arrays() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Images and labels as scikit-learn gives them.

    Shape:
        returns: (1797, 8, 8) float64 of whole numbers in 0..16, and (1797,) int64 in 0..9.

    Raises:
        BadInput: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as missing:
        raise BadInput(
            f"scikit-learn holds the digits, but {missing.name!r} is not installed here: run 'pip install scikit-learn'"
            " in any environment (tokviz itself does not need it) and start this script with that environment's python."
        ) from missing
    digits = load_digits()
    return digits.images, digits.target


def pack(images: NDArray[np.float64], labels: NDArray[np.int64]) -> bytes:
    """The bytes of the file; the same arrays give the same bytes, since numpy writes no dates.

    Shape:
        images: (1797, 8, 8), whole numbers in 0..16; labels: (1797,), whole numbers in 0..9.

    Raises:
        BadInput: the arrays are not what the scenes expect, so one byte per level would not hold them exactly.
    """
    if images.shape != IMAGES_SHAPE or labels.shape != IMAGES_SHAPE[:1]:
        raise BadInput(f"expected images of shape {IMAGES_SHAPE} with labels, but got {images.shape}, {labels.shape}")
    small_images, small_labels = images.astype(np.uint8), labels.astype(np.uint8)
    if (small_images != images).any() or small_images.max() > BRIGHTEST:
        raise BadInput(f"expected whole numbers in 0..{BRIGHTEST} in the images, but got others")
    if (small_labels != labels).any() or small_labels.max() > 9:
        raise BadInput("expected whole numbers in 0..9 as labels, but got others")
    written = io.BytesIO()
    np.savez_compressed(written, images=small_images, labels=small_labels)
    return written.getvalue()


def main(arguments: list[str] | None = None) -> int:
    """Write or check the file; returns 0, 1 where the check finds a difference, 2 for a missing scikit-learn."""
    parser = argparse.ArgumentParser(description="Pack scikit-learn's handwritten digits for the scenes.")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    parser.add_argument("--output", type=Path, default=HANDWRITING_FILE, help="the file (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    try:
        packed = pack(*load_digit_arrays())
        if chosen.check:
            return _check(packed, chosen.output)
        chosen.output.write_bytes(packed)
    except (BadInput, OSError) as problem:
        print(problem, file=sys.stderr)
        return 2
    print(f"{chosen.output}: {len(packed)} bytes written")
    return 0


def _check(packed: bytes, path: Path) -> int:
    """Compare bytes, and arrays where bytes differ: another zlib may compress the same arrays to other bytes."""
    stored = path.read_bytes()
    if stored == packed:
        print(f"{path}: the same, byte for byte")
        return 0
    with np.load(io.BytesIO(stored)) as old, np.load(io.BytesIO(packed)) as new:
        same = set(old) == set(new) and all(np.array_equal(old[name], new[name]) for name in new)
    print(f"{path}: other bytes, {'the same arrays (another zlib compressed them)' if same else 'other arrays'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
