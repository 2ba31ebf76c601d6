"""The stored handwritten digits: what they hold, how they are split, and that the script that packs them is true."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from scenes.lettering import HANDWRITING_FILE, handwritten, handwritten_mask, handwritten_numbers
from scripts.pack_handwritten_digits import main, pack
from tokviz.errors import BadInput

# Of the arrays, not of the file: another zlib may compress the same arrays to other bytes.
IMAGES_SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"
LABELS_SHA256 = "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0"


def as_floats() -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn would give."""
    images, labels = handwritten()
    return images.astype(np.float64), labels.astype(np.int64)


def stand_in_for_scikit_learn(monkeypatch: pytest.MonkeyPatch, images: np.ndarray, labels: np.ndarray) -> None:
    datasets = ModuleType("sklearn.datasets")
    datasets.load_digits = lambda: SimpleNamespace(images=images, target=labels)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sklearn", ModuleType("sklearn"))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", datasets)


def test_the_stored_arrays_are_the_published_ones() -> None:
    images, labels = handwritten()
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8 and images.max() == 16
    assert labels.shape == (1797,) and labels.dtype == np.uint8
    assert hashlib.sha256(images.tobytes()).hexdigest() == IMAGES_SHA256
    assert hashlib.sha256(labels.tobytes()).hexdigest() == LABELS_SHA256


def test_training_and_held_out_images_are_disjoint_and_complete_and_hold_every_digit() -> None:
    images, labels = handwritten()
    parts = [[handwritten_numbers(digit, held_out) for digit in range(10)] for held_out in (False, True)]
    training, held_out = (np.concatenate(part) for part in parts)
    assert not set(training) & set(held_out)
    assert sorted([*training, *held_out]) == list(range(len(labels)))
    assert all((labels[numbers] == digit).all() for part in parts for digit, numbers in enumerate(part))
    assert all(len(numbers) >= 25 for part in parts for numbers in part)
    # No image of one part is an exact copy of one of the other.
    seen = {images[number].tobytes() for number in training}
    assert not seen & {images[number].tobytes() for number in held_out}


@pytest.mark.parametrize("side", [13, 24, 42])
def test_a_digit_is_drawn_as_dark_ink_on_its_note(side: int) -> None:
    images = handwritten()[0]
    for number in range(0, 1797, 90):
        mask = handwritten_mask(number, side, side)
        assert mask.shape == (side, side) and mask.dtype == np.float32
        assert mask.min() >= 0 and mask.max() <= 1
        # Ink lies where the stored image has it: shrunk to 8 x 8 again the two agree.
        inner = round(side * 0.86)
        start = (side - inner) // 2
        cells = np.linspace(start, start + inner, 9)
        shrunk = np.array(
            [
                [mask[int(cells[r]) : int(np.ceil(cells[r + 1])), int(cells[c]) : int(np.ceil(cells[c + 1]))].mean()
                 for c in range(8)] for r in range(8)
            ]
        )  # fmt: skip
        assert np.corrcoef(shrunk.ravel(), images[number].ravel())[0, 1] > 0.85


def test_packing_gives_the_stored_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_scikit_learn(monkeypatch, *as_floats())
    written = tmp_path / "digits.npz"
    assert main(["--output", str(written)]) == 0
    with np.load(written) as stored:
        assert sorted(stored) == ["images", "labels"]
        assert hashlib.sha256(stored["images"].tobytes()).hexdigest() == IMAGES_SHA256
        assert hashlib.sha256(stored["labels"].tobytes()).hexdigest() == LABELS_SHA256
    assert main(["--check", "--output", str(written)]) == 0
    assert main(["--check"]) == 0


def test_packing_twice_gives_the_same_bytes() -> None:
    assert pack(*as_floats()) == pack(*as_floats())


def test_the_check_notices_another_image(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = as_floats()
    images[5, 3, 3] = (images[5, 3, 3] + 1) % 17
    stand_in_for_scikit_learn(monkeypatch, images, labels)
    assert main(["--check"]) == 1
    assert "other arrays" in capsys.readouterr().out


def test_a_missing_scikit_learn_is_a_clear_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    before = HANDWRITING_FILE.read_bytes()
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "pip install scikit-learn" in said and "Traceback" not in said
    assert HANDWRITING_FILE.read_bytes() == before


def test_arrays_that_one_byte_would_not_hold_are_refused() -> None:
    images, labels = as_floats()
    with pytest.raises(BadInput, match="shape"):
        pack(images[:10], labels[:10])
    with pytest.raises(BadInput, match=r"whole numbers in 0\.\.16"):
        pack(images + 0.5, labels)
    with pytest.raises(BadInput, match=r"0\.\.9"):
        pack(images, labels + 1)
