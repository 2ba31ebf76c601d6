"""What other tools write: LLaVA's questions, sample logs of lmms-eval and VLMEvalKit with the answers in them."""

from __future__ import annotations

import ast
import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...errors import BadInput, is_installed
from ...files import open_file
from ..case import BrokenLine, LeftOut, Metric, needed, text_of, texts_of
from ..reading import Entry, document, entries_of, first_object, head, json_lines
from .layout import Layout, is_entry
from .photographs import CHOOSE, IMAGE_SUFFIXES, LETTERS

_METRICS: tuple[tuple[str, Metric], ...] = (
    ("refcoco|rec_", "box"),
    ("pope", "pope"),
    (r"mme(?!bench)\b|mme_|^mme", "mme"),
    ("docvqa|infovqa|infographic|ocrvqa", "anls"),
    ("vqav2|vqa_v2|textvqa|vizwiz|okvqa|ok_vqa", "vqa"),
    ("scienceqa|sqa|mmbench|mmstar|mmmu|ai2d|seed|mmvp|realworldqa", "choice"),
)


def metric_of(task: str) -> Metric:
    """How the data set is judged that a task's or file's name names; exact where the name says nothing."""
    return next((metric for pattern, metric in _METRICS if re.search(pattern, task.casefold())), "exact")


class LlavaQuestions(Layout):
    """``question.jsonl``: lines with question_id, image, text; or a list of LLaVA's conversations."""

    name = "llava"
    title = "LLaVA: question.jsonl, or a JSON list of conversations"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._times: Counter[str] = Counter()

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Lines with question_id and text, or entries with conversations."""
        if path.suffix == ".json" and head(path).lstrip()[:1] == b"[":
            return b'"conversations"' in head(path)
        return {"question_id", "text"} <= first_object(path).keys()

    def files(self) -> Sequence[Path]:
        """The one file."""
        return (self.path,)

    def entries(self) -> Iterator[Entry]:
        """One per line or conversation."""
        if head(self.path).lstrip()[:1] == b"[":
            yield from entries_of(self.path, document(self.path))
        else:
            yield from json_lines(self.path)

    def fields(self, value: Any) -> dict[str, Any]:
        """Several questions may have one question_id, which LLaVA often makes of the image: later ones get a number."""
        entry = is_entry(value)
        if entry.get("image") is None:
            raise LeftOut("question without an image")
        number = text_of(needed(entry, "question_id", "id"), "question_id")
        self._times[number] += 1
        times = self._times[number]
        turns = entry.get("conversations")
        if turns is None:
            asked = text_of(needed(entry, "text"), "text")
            answers = texts_of(entry.get("answers", entry.get("answer", entry.get("label"))), "answer")
        else:
            asked, answers = _first_turns(turns)
        family = entry.get("category")
        image = text_of(entry["image"], "image")
        return {
            "id": number if times == 1 else f"{number}#{times}",
            "image": (image, f"images/{image}"),
            "question": asked.replace("<image>", "").strip(),
            "answers": answers,
            "family": family,
            "metric": _answered_by(metric_of(self.path.as_posix().rpartition("/")[2]), asked),
        }


def _answered_by(metric: Metric, question: str) -> Metric:
    """A prompt that asks for a letter is judged by the letter, whatever the file is called."""
    return "choice" if CHOOSE in question else metric


def _first_turns(turns: Any) -> tuple[str, tuple[str, ...]]:
    """Question and answer of the first two turns. Raises BrokenLine."""
    if not isinstance(turns, list) or not turns:
        raise BrokenLine("conversations has no turns")
    said = [text_of(needed(is_entry(turn), "value"), "value") for turn in turns[:2]]
    return said[0], tuple(said[1:2])


class LmmsEval(Layout):
    """A sample log of lmms-eval: ``…_samples_pope.jsonl``, or the ``pope.json`` of versions before 0.3.

    Newer logs keep no document, so an image is found by what they do hold: input_media, else ``doc_id`` in the media
    folder. The model's answer becomes one of ``Case.others``.
    """

    name = "lmms-eval"
    title = "lmms-eval: *_samples_*.jsonl of --log_samples"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Lines with doc_id and responses, or a document with logs."""
        keys = first_object(path).keys()
        if "doc_id" in keys and keys & {"target", "resps", "filtered_resps"}:
            return True
        start = head(path)
        return b'"model_configs"' in start and b'"logs"' in head(path, 1_000_000)

    def files(self) -> Sequence[Path]:
        """The one file."""
        return (self.path,)

    def entries(self) -> Iterator[Entry]:
        """One per sample."""
        if "doc_id" in first_object(self.path):
            yield from json_lines(self.path)
        else:
            whole = document(self.path)
            yield from entries_of(self.path, whole.get("logs") if isinstance(whole, dict) else None)

    @property
    def _task(self) -> str:
        return self.path.stem.partition("_samples_")[2] or self.path.stem

    @property
    def _model(self) -> str:
        return self.path.parent.name if "_samples_" in self.path.name and self.path.parent.name else "lmms-eval"

    def fields(self, value: Any) -> dict[str, Any]:
        """The question is the prompt as it was given to the model."""
        entry = is_entry(value)
        held = entry.get("doc")
        doc: dict[str, Any] = held if isinstance(held, dict) else {}
        said = entry.get("filtered_resps", entry.get("resps"))
        while isinstance(said, list) and said:
            said = said[0]
        asked = entry.get("input") or _first_text(entry.get("arguments")) or doc.get("question")
        number = text_of(needed(entry, "doc_id"), "doc_id")
        family, task = doc.get("category"), self._task
        return {
            "id": f"{task}-{number}",
            "image": _image_names(entry, doc, number),
            "question": text_of(needed({"input": asked}, "input"), "input").replace("<image>", "").strip(),
            "answers": _listed(entry.get("target")),
            "family": text_of(family, "category") if family is not None else None,
            "metric": metric_of(task),
            "others": {self._model: said} if isinstance(said, str) else {},
        }


def _first_text(arguments: Any) -> str | None:
    """The prompt among the arguments of a request, which older logs nest."""
    while isinstance(arguments, list) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else None


def _listed(target: Any) -> tuple[str, ...]:
    """The right answers: lmms-eval writes a list of them as the text that Python prints of it."""
    if isinstance(target, str) and target[:1] == "[" and len(target) < 100_000:
        try:
            inside = ast.literal_eval(target)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return (target,)
        if isinstance(inside, list) and inside and all(isinstance(entry, str) for entry in inside):
            return texts_of(inside, "target")
    return texts_of(target, "target")


def _image_names(entry: dict[str, Any], doc: dict[str, Any], number: str) -> tuple[str, ...]:
    """What the image of a sample may be called, most likely first."""
    media = entry.get("input_media")
    given = [name for name in (media if isinstance(media, list) else []) if isinstance(name, str)]
    named = [name for name in given if "://" not in name and not name.startswith("data:")]
    keys = ("image_path", "image", "file_name", "image_source", "image_id", "imageId", "question_id", "questionId")
    named += [str(doc[key]) for key in keys if isinstance(doc.get(key), str | int)]
    names = [*named, number]
    return tuple(
        full
        for name in dict.fromkeys(names)
        for full in ([name] if Path(name).suffix.lower() in IMAGE_SUFFIXES else [name + s for s in IMAGE_SUFFIXES])
    )


class VlmEvalKit(Layout):
    """A result file of VLMEvalKit: ``model_MME.xlsx``, ``.tsv`` or ``.json``, a row per sample.

    Images are those that VLMEvalKit leaves in ``LMUData/images/MME``: name that folder as the media folder.
    """

    name = "vlmevalkit"
    title = "VLMEvalKit: <model>_<data set>.xlsx, .tsv, .csv or .json; --media LMUData/images/<data set>"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A table with index and prediction."""
        suffix, start = path.suffix.lower(), head(path)
        if suffix in (".tsv", ".csv"):
            first = start.partition(b"\n")[0]
            return b"index" in first and b"prediction" in first
        if suffix == ".xlsx":
            return start[:2] == b"PK"
        return suffix == ".json" and b'"index"' in start and b'"prediction"' in start

    def files(self) -> Sequence[Path]:
        """The one file."""
        return (self.path,)

    def entries(self) -> Iterator[Entry]:
        """One per row."""
        suffix = self.path.suffix.lower()
        if suffix == ".xlsx":
            yield from _sheet(self.path)
        elif suffix == ".json":
            yield from entries_of(self.path, document(self.path))
        else:
            yield from _table(self.path, "\t" if suffix == ".tsv" else ",")

    @property
    def _model(self) -> str:
        """VLMEvalKit names a folder above like the model, with which the file's name begins."""
        names = [folder.name for folder in self.path.resolve().parents if folder.name]
        return next((name for name in names if self.path.stem.startswith(f"{name}_")), self.path.stem)

    def fields(self, value: Any) -> dict[str, Any]:
        """Options in columns A, B, … become lettered lines of the question."""
        row = {name: cell for name, cell in is_entry(value).items() if cell not in (None, "")}
        number = text_of(needed(row, "index"), "index")
        options = [f"{letter}. {row[letter]}" for letter in LETTERS if letter in row]
        hint = [text_of(row["hint"], "hint")] if "hint" in row else []
        asked = text_of(needed(row, "question"), "question")
        path = _listed(row.get("image_path"))
        said, family, split = row.get("prediction"), row.get("category"), row.get("split")
        metric: Metric = "choice" if options else metric_of(self.path.stem)
        return {
            "id": number,
            "image": (*path, *(f"{number}{suffix}" for suffix in IMAGE_SUFFIXES)),
            "question": "\n".join([*hint, asked, *options, *([CHOOSE] if options else [])]),
            "answers": _listed(row.get("answer")),
            "family": text_of(family, "category") if family is not None else None,
            "split": text_of(split, "split") if split is not None else None,
            "metric": metric,
            "others": {self._model: text_of(said, "prediction")} if said is not None else {},
        }


def _table(path: Path, delimiter: str) -> Iterator[Entry]:
    """The rows of a table with a header, each with the line it ends in."""
    with open_file(path, "case") as raw:
        lines = (line.decode("utf-8", errors="replace") for line in raw)
        reader = csv.DictReader(lines, delimiter=delimiter)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Entry(path.name, reader.line_num, broken=f"no row of a table: {error}")
                continue
            broken = "has more cells than the header" if None in row else None
            yield Entry(path.name, reader.line_num, row, broken)


def _sheet(path: Path) -> Iterator[Entry]:
    """The rows of the first sheet. Raises BadInput where openpyxl is missing or the file is damaged."""
    if not is_installed("openpyxl"):
        raise BadInput(
            "Reading an .xlsx file needs openpyxl: pip install openpyxl; or have VLMEvalKit write PRED_FORMAT=tsv."
        )
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = book.worksheets[0].iter_rows(values_only=True)
        header = [str(name) for name in next(rows, ())]
        for number, cells in enumerate(rows, start=2):
            yield Entry(path.name, number, dict(zip(header, cells, strict=False)))
    except (KeyError, ValueError, OSError, EOFError, IndexError) as error:
        raise BadInput(f"{path.name!r} is no Excel file that can be read.") from error
