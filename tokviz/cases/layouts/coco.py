"""POPE, VQAv2 and RefCOCO: questions about images of COCO."""

from __future__ import annotations

import io
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ...errors import BadInput
from ...files import open_file
from ..case import BrokenLine, needed, text_of, texts_of
from ..reading import MAX_DOCUMENT_BYTES, Entry, document, entries_of, first_object, head, json_lines
from .layout import Layout, at, coco_names, corners, indexed, is_entry, only


class Pope(Layout):
    """``coco_pope_adversarial.json``: lines with question_id, image, text, label. Of a folder, all of these files."""

    name = "pope"
    title = "POPE: coco_pope_*.json, or a folder of them"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Lines with text and label."""
        files = sorted(path.glob("*_pope_*.json")) if path.is_dir() else [path]
        return bool(files) and {"image", "text", "label"} <= first_object(files[0]).keys()

    def files(self) -> Sequence[Path]:
        """One per split."""
        return sorted(self.path.glob("*_pope_*.json*")) if self.path.is_dir() else (self.path,)

    def entries(self) -> Iterator[Entry]:
        """One per line."""
        for file in self.files():
            split = file.stem.rpartition("_pope_")[2] if "_pope_" in file.stem else None
            for entry in json_lines(file):
                yield Entry(entry.file, entry.line, (split, entry.value), entry.broken)

    def fields(self, value: Any) -> dict[str, Any]:
        """``id`` is the split and the question's number, which starts anew in every split."""
        split, entry = value
        split = entry.get("category") or split
        image = text_of(needed(entry, "image"), "image")
        subset = image.split("_")[1] if image.startswith("COCO_") else "val2014"
        number = text_of(needed(entry, "question_id"), "question_id")
        return {
            "id": f"{split}-{number}" if split else number,
            "image": (image, f"{subset}/{image}", f"images/{image}"),
            "question": text_of(needed(entry, "text"), "text"),
            "answers": texts_of(needed(entry, "label"), "label"),
            "family": "existence",
            "split": split,
            "metric": "pope",
        }


class VqaV2(Layout):
    """``v2_OpenEnded_mscoco_val2014_questions.json``, with ``v2_mscoco_val2014_annotations.json`` beside it."""

    name = "vqav2"
    title = "VQAv2: v2_OpenEnded_*_questions.json, the annotations beside it"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A document with task_type and questions, or a folder that has one."""
        if path.is_dir():
            return any(path.glob("*OpenEnded*_questions.json"))
        start = head(path)
        return b'"task_type"' in start and b'"data_subtype"' in start

    def files(self) -> Sequence[Path]:
        """Questions and, where there are any, annotations."""
        questions = self.path
        if self.path.is_dir():
            questions = only(self.path, "*OpenEnded*_questions.json", "VQAv2 questions")
        name = questions.name.replace("OpenEnded_", "").replace("_questions", "_annotations")
        annotations = questions.with_name(name)
        return (questions, annotations) if annotations.is_file() and annotations != questions else (questions,)

    def entries(self) -> Iterator[Entry]:
        """One per question, with its annotation."""
        questions, *annotations = self.files()
        told = is_document(document(annotations[0]), annotations[0]) if annotations else {}
        by_id = indexed(told.get("annotations"), "question_id")
        asked = is_document(document(questions), questions)
        subset = str(asked.get("data_subtype", "val2014"))
        for entry in entries_of(questions, asked.get("questions")):
            known = at(by_id, entry.value.get("question_id")) if isinstance(entry.value, dict) else None
            yield Entry(entry.file, None, (subset, entry.value, known), number=entry.number)

    def fields(self, value: Any) -> dict[str, Any]:
        """The family is the type of the answer: yes/no, number, other."""
        subset, asked, told = value
        asked, told = is_entry(asked), told or {}
        return {
            "id": text_of(needed(asked, "question_id"), "question_id"),
            "image": coco_names(needed(asked, "image_id"), subset),
            "question": text_of(needed(asked, "question"), "question"),
            "answers": people_answers(told.get("answers")),
            "family": told.get("answer_type"),
            "split": subset,
            "metric": "vqa",
        }


def people_answers(answers: Any) -> tuple[str, ...]:
    """What each person answered: a list of texts, or of objects with ``answer``. Raises BrokenLine."""
    if isinstance(answers, list):
        answers = [entry.get("answer") if isinstance(entry, dict) else entry for entry in answers]
    return texts_of(answers, "answers")


def is_document(value: Any, path: Path) -> dict[str, Any]:
    """A document that is an object. Raises BadInput."""
    if not isinstance(value, dict):
        raise BadInput(f"{path.name!r} is no JSON object, as its layout needs.")
    return value


class RefCoco(Layout):
    """A folder with ``refs(unc).p`` and ``instances.json``: one case per sentence, answered with a box."""

    name = "refcoco"
    title = "RefCOCO, RefCOCO+, RefCOCOg: a folder with refs(…).p and instances.json; asks for a box"
    asks: ClassVar[str] = "Please provide the bounding box coordinate of the region this sentence describes: {}."

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the names of its files."""
        if path.is_dir():
            return any(path.glob("refs(*).p")) and (path / "instances.json").is_file()
        return path.suffix == ".p" and path.name.startswith("refs(")

    def files(self) -> Sequence[Path]:
        """References and boxes."""
        refs = only(self.path, "refs(*).p", "references") if self.path.is_dir() else self.path
        instances = refs.with_name("instances.json")
        if not instances.is_file():
            raise BadInput(f"RefCOCO needs instances.json, with the boxes, beside {refs.name!r}.")
        return (refs, instances)

    def entries(self) -> Iterator[Entry]:
        """One per sentence."""
        refs, instances = self.files()
        known = is_document(document(instances), instances)
        boxes, images, kinds = (indexed(known.get(name), "id") for name in ("annotations", "images", "categories"))
        for number, ref in enumerate(_plain_pickle(refs), start=1):
            ref = ref if isinstance(ref, dict) else {}
            box, image = at(boxes, ref.get("ann_id")), at(images, ref.get("image_id"))
            kind = (at(kinds, ref.get("category_id")) or {}).get("name")
            sentences = ref.get("sentences")
            for sentence in sentences if isinstance(sentences, list) and sentences else [{}]:
                yield Entry(refs.name, None, (ref, sentence, box, image, kind), number=number)

    def fields(self, value: Any) -> dict[str, Any]:
        """The right box is the answer, in pixels, and the evidence."""
        ref, sentence, box, image, kind = value
        if box is None or image is None:
            raise BrokenLine(f"instances.json has no {'box' if box is None else 'image'} of this reference")
        corner = needed(box, "bbox")
        if not isinstance(corner, list) or len(corner) != 4:
            raise BrokenLine("bbox is not made of four numbers")
        place = corners(*corner)
        name = text_of(needed(image, "file_name"), "file_name")
        said = text_of(needed(is_entry(sentence), "sent", "raw"), "sent")
        return {
            "id": f"{needed(ref, 'ref_id')}-{needed(sentence, 'sent_id')}",
            "image": (name, f"{name.split('_')[1]}/{name}" if name.count("_") > 1 else name, f"images/{name}"),
            "question": self.asks.format(said),
            "answers": (str([round(number, 2) for number in place]),),
            "family": kind,
            "split": ref.get("split"),
            "evidence": (place,),
            "metric": "box",
        }


class RefCocoPoint(RefCoco):
    """RefCOCO, answered with a point."""

    name = "refcoco-point"
    title = "the same, asks for a point"
    asks: ClassVar[str] = "Point to the region this sentence describes; answer with its coordinates (x, y): {}."

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Never: a box is what is asked for where nobody says."""
        return False


class _Plain(pickle.Unpickler):
    """Reads lists, dicts, texts and numbers; refuses everything that would import or call something."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module[:60]}.{name[:60]}")


def _plain_pickle(path: Path) -> list[Any]:
    """A list from a pickle of plain values. Raises BadInput."""
    with open_file(path, "case") as file:
        data = file.read(MAX_DOCUMENT_BYTES)
    try:
        found = _Plain(io.BytesIO(data), encoding="utf-8", errors="replace").load()
    except Exception as error:  # a damaged pickle raises whatever its opcodes run into
        reason = str(error) if isinstance(error, pickle.UnpicklingError) else "it is damaged"
        reason = re.sub(r"\s+", " ", reason)
        raise BadInput(f"{path.name!r} is no pickle of plain lists and texts, and is not opened: {reason}.") from error
    if not isinstance(found, list):
        raise BadInput(f"{path.name!r} holds no list of references.")
    return found
