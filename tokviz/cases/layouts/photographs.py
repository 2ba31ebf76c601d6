"""GQA, TextVQA, VizWiz, ScienceQA and MME: each in the files that its authors publish."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ...names import Box
from ...runs.metrics import normalised
from ..case import BrokenLine, LeftOut, needed, text_of, texts_of
from ..reading import Entry, document, entries_of, head, text_lines
from .coco import is_document, people_answers
from .layout import Layout, at, corners, indexed, is_entry, only

IMAGE_SUFFIXES = (".jpg", ".png", ".jpeg")
LETTERS = "ABCDEFGHIJ"
CHOOSE = "Answer with the option's letter from the given choices directly."


class Gqa(Layout):
    """``val_balanced_questions.json``; ``val_sceneGraphs.json`` beside it has the boxes of what is asked about."""

    name = "gqa"
    title = "GQA: *_questions.json; evidence from *_sceneGraphs.json beside it"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A document whose entries have imageId, or a folder that has one."""
        if path.is_dir():
            return any(b'"imageId"' in head(file) for file in path.glob("*_questions.json"))
        return path.suffix == ".json" and b'"imageId"' in head(path)

    def files(self) -> Sequence[Path]:
        """Questions and, where there are any, scene graphs."""
        questions = only(self.path, "*_questions.json", "GQA questions") if self.path.is_dir() else self.path
        name = f"{questions.name.split('_')[0]}_sceneGraphs.json"
        graphs = [questions.parent / name, questions.parent / "sceneGraphs" / name]
        return (questions, *(path for path in graphs if path.is_file()))[:2]

    def entries(self) -> Iterator[Entry]:
        """One per question, with the scene graph of its image."""
        questions, *graphs = self.files()
        known = is_document(document(graphs[0]), graphs[0]) if graphs else {}
        split = questions.name.split("_")[0]
        for entry in entries_of(questions, document(questions)):
            number, asked = entry.value if isinstance(entry.value, tuple) else (None, entry.value)
            image = asked.get("imageId") if isinstance(asked, dict) else None
            graph = known.get(image) if isinstance(image, str) else None
            yield Entry(entry.file, None, (number, asked, graph, split), number=entry.number)

    def fields(self, value: Any) -> dict[str, Any]:
        """Evidence: the objects that the annotations of question, answer and full answer name."""
        number, asked, graph, split = value
        asked = is_entry(asked)
        image = text_of(needed(asked, "imageId"), "imageId")
        types = asked.get("types") or {}
        return {
            "id": number or text_of(needed(asked, "questionId", "question_id", "id"), "id"),
            "image": (f"{image}.jpg", f"images/{image}.jpg"),
            "question": text_of(needed(asked, "question"), "question"),
            "answers": texts_of(asked.get("answer"), "answer"),
            "family": types.get("structural") if isinstance(types, dict) else None,
            "split": split,
            "evidence": _named_objects(asked.get("annotations"), graph),
        }


def _named_objects(annotations: Any, graph: Any) -> tuple[Box, ...]:
    """Boxes of the objects whose ids the annotations hold, each once. Raises BrokenLine."""
    if not isinstance(annotations, dict) or not isinstance(graph, dict):
        return ()
    spans = [span for span in annotations.values() if isinstance(span, dict)]
    ids = [id.strip() for span in spans for ids in span.values() if isinstance(ids, str) for id in ids.split(",")]
    objects = graph.get("objects") or {}
    known = [objects[id] for id in dict.fromkeys(ids) if id in objects]
    return tuple(corners(*(is_entry(thing).get(side) for side in "xywh")) for thing in known)


class TextVqa(Layout):
    """``TextVQA_0.5.1_val.json``; ``TextVQA_Rosetta_OCR_v0.2_val.json`` beside it has the boxes of the words."""

    name = "textvqa"
    title = "TextVQA: TextVQA_0.5.1_*.json; evidence from TextVQA_Rosetta_OCR_*.json beside it"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A document of questions with flickr's addresses, or a folder that has one."""
        if path.is_dir():
            return any(path.glob("TextVQA_[0-9]*.json"))
        start = head(path, 1_000_000)
        return b'"image_classes"' in start and b'"question_tokens"' in start

    def files(self) -> Sequence[Path]:
        """Questions and, where there are any, the words that an OCR read."""
        questions = only(self.path, "TextVQA_[0-9]*.json", "TextVQA questions") if self.path.is_dir() else self.path
        read = sorted(questions.parent.glob(f"TextVQA_Rosetta_OCR_*_{questions.stem.rpartition('_')[2]}.json"))
        return (questions, *read[-1:])

    def entries(self) -> Iterator[Entry]:
        """One per question, with the words of its image."""
        questions, *read = self.files()
        words = indexed(is_document(document(read[0]), read[0]).get("data"), "image_id") if read else {}
        asked = is_document(document(questions), questions)
        for entry in entries_of(questions, asked.get("data")):
            seen = at(words, entry.value.get("image_id")) if isinstance(entry.value, dict) else None
            seen = (seen or {}).get("ocr_info")
            yield Entry(entry.file, None, (entry.value, seen, asked.get("dataset_type")), number=entry.number)

    def fields(self, value: Any) -> dict[str, Any]:
        """Evidence: the words that are part of an answer which two people gave (or all gave, where none agree)."""
        asked, seen, split = value
        asked = is_entry(asked)
        image = text_of(needed(asked, "image_id"), "image_id")
        answers = people_answers(asked.get("answers"))
        size = asked.get("image_width"), asked.get("image_height")
        return {
            "id": text_of(needed(asked, "question_id"), "question_id"),
            "image": tuple(f"{folder}{image}.jpg" for folder in ("", "train_images/", "test_images/", "images/")),
            "question": text_of(needed(asked, "question"), "question"),
            "answers": answers,
            "split": asked.get("set_name") or split,
            "evidence": _words_of(answers, seen, size),
            "metric": "vqa",
        }


def _words_of(answers: Sequence[str], seen: Any, size: tuple[Any, Any]) -> tuple[Box, ...]:
    """Boxes of the words that were read and are part of an answer. Raises BrokenLine."""
    if not isinstance(seen, list):
        return ()
    counts = Counter(normalised(answer) for answer in answers)
    agreed = [answer for answer, count in counts.items() if count > 1] or list(counts)
    wanted = {word for answer in agreed for word in map(normalised, answer.split()) if word}
    found = []
    for word in map(is_entry, seen):
        if normalised(text_of(needed(word, "word"), "word")) in wanted:
            place = is_entry(needed(word, "bounding_box"))
            box = corners(*(needed(place, side) for side in ("top_left_x", "top_left_y", "width", "height")))
            try:
                width, height = float(size[0]), float(size[1])
            except (TypeError, ValueError) as error:
                raise BrokenLine("image_width and image_height are needed to place its words") from error
            found.append((box[0] * width, box[1] * height, box[2] * width, box[3] * height))
    return tuple(found)


class VizWiz(Layout):
    """``val.json``: a list of entries with image, question, answers, answer_type, answerable."""

    name = "vizwiz"
    title = "VizWiz-VQA: train.json, val.json or test.json"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A list whose entries name images of VizWiz."""
        start = head(path)
        return start.lstrip()[:1] == b"[" and b'"VizWiz_' in start and b'"question"' in start

    def files(self) -> Sequence[Path]:
        """The one file."""
        if self.path.is_dir():
            raise BadInput(f"Name the file of VizWiz (val.json) in {self.path.name!r}, not the folder.")
        return (self.path,)

    def entries(self) -> Iterator[Entry]:
        """One per image: each has one question."""
        yield from entries_of(self.path, document(self.path))

    def fields(self, value: Any) -> dict[str, Any]:
        """The family is the type of the answer: yes/no, number, other, unanswerable."""
        entry = is_entry(value)
        image = text_of(needed(entry, "image"), "image")
        split = image.split("_")[1] if image.startswith("VizWiz_") and image.count("_") > 1 else None
        return {
            "id": Path(image).stem,
            "image": (image, f"{split}/{image}", f"images/{image}"),
            "question": text_of(needed(entry, "question"), "question"),
            "answers": people_answers(entry.get("answers")),
            "family": entry.get("answer_type"),
            "split": split,
            "metric": "vqa",
        }


class ScienceQa(Layout):
    """``problems.json``, with images at ``images/test/42/image.png``. Questions without an image are left out."""

    name = "scienceqa"
    title = "ScienceQA: problems.json, or its folder"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A document of problems with choices and lectures."""
        start = head(path / "problems.json" if path.is_dir() else path)
        return b'"choices"' in start and b'"lecture"' in start

    def files(self) -> Sequence[Path]:
        """The one file."""
        return (self.path / "problems.json",) if self.path.is_dir() else (self.path,)

    def entries(self) -> Iterator[Entry]:
        """One per problem."""
        file = self.files()[0]
        yield from entries_of(file, document(file))

    def fields(self, value: Any) -> dict[str, Any]:
        """The prompt is that of LLaVA: context, question, lettered choices, and how to answer."""
        number, problem = value if isinstance(value, tuple) else (None, value)
        problem = is_entry(problem)
        if problem.get("image") is None:
            raise LeftOut("question without an image")
        choices = texts_of(needed(problem, "choices"), "choices")
        answer = problem.get("answer")
        if answer is not None and (not isinstance(answer, int) or not 0 <= answer < len(choices) <= len(LETTERS)):
            raise BrokenLine("answer is not the number of one of the choices")
        hint, split = problem.get("hint"), text_of(needed(problem, "split"), "split")
        asked = text_of(needed(problem, "question"), "question")
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        number = number or text_of(needed(problem, "id"), "id")
        image = f"{split}/{number}/{problem['image']}"
        return {
            "id": number,
            "image": (f"images/{image}", image),
            "question": "\n".join([*([f"Context: {hint}"] if hint else []), asked, *lines, CHOOSE]),
            "answers": () if answer is None else (LETTERS[answer],),
            "family": problem.get("subject"),
            "split": split,
            "metric": "choice",
        }


class Mme(Layout):
    """``MME_Benchmark_release_version``: a folder per category, with an image and a text file of two questions each.

    Both forms: ``count/000001.txt`` beside its image, and ``artwork/questions_answers_YN/1.txt`` with
    ``artwork/images/1.jpg``. A line is a question, a tab, Yes or No.
    """

    name = "mme"
    title = "MME: the folder of its categories"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A folder with a text file of such lines, at most three folders down."""
        lines = (head(file, 4096).splitlines()[:1] for file in _text_files(path, most=200))
        return any(line and line[0].rstrip().rpartition(b"\t")[2] in (b"Yes", b"No") for line in lines)

    def files(self) -> Sequence[Path]:
        """One per image."""
        found = list(_text_files(self.path))
        if not found:
            raise BadInput(f"The folder {self.path.name!r} has no text files with MME's questions.")
        return found

    def entries(self) -> Iterator[Entry]:
        """One per line."""
        for file in self.files():
            for number, entry in enumerate(text_lines(file), start=1):
                yield Entry(
                    file.relative_to(self.path).as_posix(), entry.line, (file, number, entry.value), entry.broken
                )

    def fields(self, value: Any) -> dict[str, Any]:
        """The family is the category; both questions of an image share it, which is what MME's acc+ counts by."""
        file, number, line = value
        question, tab, answer = line.rstrip().rpartition("\t")
        if not tab or answer not in ("Yes", "No"):
            raise BrokenLine("expected a question, a tab, and Yes or No")
        apart = file.parent.name == "questions_answers_YN"
        category = file.parent.parent if apart else file.parent
        images = (category / "images" if apart else category).relative_to(self.path)
        return {
            "id": f"{category.name}/{file.stem}/{number}",
            "image": tuple((images / f"{file.stem}{suffix}").as_posix() for suffix in IMAGE_SUFFIXES),
            "question": question,
            "answers": (answer,),
            "family": category.name,
            "metric": "mme",
        }


def _text_files(folder: Path, most: int | None = None) -> Iterator[Path]:
    """Text files at most three folders down, by name; results of an evaluation are left out."""
    count = 0
    for where, folders, names in os.walk(folder):
        depth = len(Path(where).relative_to(folder).parts)
        folders[:] = [] if depth >= 3 else sorted(name for name in folders if name != "eval_tool")
        for name in sorted(names):
            if name.endswith(".txt"):
                count += 1
                if most is not None and count > most:
                    return
                yield Path(where, name)
