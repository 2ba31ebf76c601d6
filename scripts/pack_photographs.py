"""Pack photographs that scikit-image distributes into ``testworld/photographs.npz``, as backgrounds and for tests.

    python -m scripts.pack_photographs FOLDER           # write the file again
    python -m scripts.pack_photographs FOLDER --check   # only compare it with what would be written

FOLDER is ``skimage/data`` of an installed scikit-image (0.26.0 was used); tokviz itself does not need the package.

All twelve are free of rights, as `skimage/data/_fetchers.py` says of each: CC0 by Lav Varshney (camera), Stefan van der
Walt (chelsea; clock: public domain), Rachel Michetti (coffee), CC0Textures (brick, grass, gravel), Häggström (retina)
and the author of cell; public domain by NASA (astronaut, hubble_deep_field) and SpaceX (rocket). Changed here:
scaled to a shorter edge of 352 pixels and stored as JPEG.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from testworld.backgrounds import PHOTOGRAPHS_FILE
from tokviz.errors import BadInput

FILES = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg",
)  # fmt: skip
SHORTER_EDGE, QUALITY = 352, 82


def pack(folder: Path) -> dict[str, NDArray[np.uint8]]:
    """The bytes of each photograph as JPEG, by name.

    Raises:
        BadInput: a photograph is missing.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise BadInput(f"expected the folder skimage/data of scikit-image, but {', '.join(missing)} is not in it")
    packed = {}
    for name in FILES:
        picture = Image.open(folder / name).convert("RGB")
        scale = SHORTER_EDGE / min(picture.size)
        small = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
        written = io.BytesIO()
        small.save(written, "JPEG", quality=QUALITY, optimize=True)
        packed[name.split(".")[0]] = np.frombuffer(written.getvalue(), np.uint8)
    return packed


def main(arguments: list[str] | None = None) -> int:
    """Write or check the file; returns 0, 1 where the check finds a difference, 2 for missing photographs."""
    parser = argparse.ArgumentParser(description="Pack scikit-image's photographs for the second world.")
    parser.add_argument("folder", type=Path, help="skimage/data of an installed scikit-image")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    chosen = parser.parse_args(arguments)
    try:
        packed = pack(chosen.folder)
    except BadInput as problem:
        print(problem, file=sys.stderr)
        return 2
    if chosen.check:
        with np.load(PHOTOGRAPHS_FILE) as stored:
            same = set(stored) == set(packed) and all(np.array_equal(stored[name], packed[name]) for name in packed)
        print(f"{PHOTOGRAPHS_FILE.name}: {'the same' if same else 'other photographs, or another JPEG library'}")
        return 0 if same else 1
    np.savez(PHOTOGRAPHS_FILE, **packed)
    print(f"{PHOTOGRAPHS_FILE.name}: {PHOTOGRAPHS_FILE.stat().st_size} bytes written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
