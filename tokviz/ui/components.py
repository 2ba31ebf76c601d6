"""The components of the page that gradio has not. Templates are constants: no value is interpolated into markup.

Gradio runs a template through Handlebars and then evaluates the result as a JavaScript template literal, so a model
answer placed there could run code. Ours contain no placeholder; every text is written with ``textContent`` by the
scripts in ``assets/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import gradio as gr
from gradio.data_classes import FileData, GradioRootModel, ImageData
from pydantic import model_validator

from .files import IMAGES, VIDEOS, shown_file, uploaded_path
from .payload import packed
from .scripts import VIEW_SCRIPTS, VIEW_STYLES, asset, script, styles

MAX_UPLOAD_MB = 100
"""The larger of the limits of ``tokviz.media.images`` and ``tokviz.media.video``, which check the rest."""


class Widget(gr.HTML):
    """Base: markup, style and scripts are files in ``assets/``, the value is plain data that the scripts draw.

    Gradio makes such an object anew from its arguments on updates, so every argument is plain data with a default.
    """

    _html: ClassVar[str]
    _css: ClassVar[str | Sequence[str]] = ""
    _scripts: ClassVar[Sequence[str]]

    def __init__(self, value: Any = None, **html_options: Any):
        super().__init__(
            value=value,
            html_template=asset(self._html) if self._html.endswith(".html") else self._html,
            css_template=styles(self._css),
            js_on_load="\n".join(map(script, self._scripts)),
            apply_default_css=False,
            **html_options,
        )

    def api_info(self) -> dict[str, Any]:
        """The value is an object, not a string."""
        return {"type": "object"}


class PatchView(Widget):
    """Lanes side by side: images with overlays, answers, numbers. The value is the dict of ``payload.to_payload``."""

    _html, _css, _scripts = "patch_view.html", VIEW_STYLES, VIEW_SCRIPTS

    def postprocess(self, value: Any) -> Any:
        """What the browser gets: the payload packed."""
        return packed(value) if value else value


class StudyPanel(Widget):
    """What looks closer at the lanes, see ``studies``. The value in Python is what a browser asks for, unchecked.

    Its style and scripts, ``STUDY_SCRIPTS``, come later, see ``late_scripts``. What the browser gets is told in
    ``studies``.
    Raises the events ``study``, ``halt``, ``leave`` and ``load_run``.
    """

    _html, _scripts = "study_panel.html", ("study_later.js",)

    def preprocess(self, payload: Any) -> dict[str, Any]:  # type: ignore[override]
        """The request; empty for anything of another shape."""
        return payload if isinstance(payload, dict) else {}


class WorkbenchView(Widget):
    """The failure workbench: all of it comes when it is asked for, see ``late_scripts``.

    It asks for its data itself, see ``workbench_routes``; its value only says which case is to be opened in the lanes.
    Raises the event ``select`` then.
    """

    _html = '<p class="wb-waiting" role="status" hidden>Opening the failures …</p>'
    _scripts = ("workbench_later.js",)

    def preprocess(self, payload: Any) -> dict[str, Any]:  # type: ignore[override]
        """What a browser wants to open, unchecked; empty for anything of another shape."""
        wanted = payload.get("open") if isinstance(payload, dict) else None
        return wanted if isinstance(wanted, dict) else {}


class PageHead(Widget):
    """Name and purpose of the page, chips about the model that answered, guide, switch between light and dark.

    has_failures: whether there are mined cases to go to.
    """

    _html, _scripts = "page_head.html", ("hints.js", "page_head.js")

    def __init__(self, value: Any = None, *, has_failures: bool = False, **html_options: Any):
        super().__init__(value, has_failures=has_failures, **html_options)


class AboutPage(Widget):
    """What a visual token is, the kinds of methods, what the numbers mean, limits: a dialog at ``#about``.

    All of it comes when it is asked for, see ``late_scripts``.
    """

    _html, _scripts = "<div></div>", ("about_later.js",)


class Notice(Widget):
    """One sentence about what is going on or went wrong. The value is the dict of ``notice`` or None.

    Event ``lost``: the browser has heard nothing of a run for so long that it is taken for given up.
    """

    _html, _scripts = '<p class="tokviz-notice" role="status" aria-live="polite"></p>', ("notice.js",)


def notice(kind: Literal["info", "busy", "error"], text: str) -> dict[str, str]:
    """A value of ``Notice``."""
    return {"kind": kind, "text": text}


class ExampleCards(Widget):
    """Cards of the examples, as of ``outcomes.cards``. Raises the event ``select``; the value in Python is the index.

    Not ``gr.Dataset``: its items come after the lanes and push them down, and the one that was pressed last stays lit
    whatever is shown since.
    """

    _html, _css, _scripts = "example_cards.html", "example_cards.css", ("example_cards.js",)

    def __init__(self, value: Sequence[dict[str, Any]] | dict[str, Any] = (), **html_options: Any):
        super().__init__(value if isinstance(value, dict) else {"cards": list(value), "chosen": None}, **html_options)

    def preprocess(self, payload: Any) -> int:  # type: ignore[override]
        """The index that a browser chose. Raises gr.Error when it is none of ours."""
        chosen = payload.get("chosen") if isinstance(payload, dict) else None
        if type(chosen) is not int or not 0 <= chosen < len(self.value["cards"]):
            raise gr.Error("There is no such example.", print_exception=False)
        return chosen


class NumbersTable(Widget):
    """The numbers of every run: a table that can be sorted and copied. The value is the dict of ``numbers.table``.

    Not ``gr.Dataframe``: its script is a tenth of what the page loads.
    """

    _html, _css, _scripts = "numbers_table.html", "numbers_table.css", ("numbers_table.js",)


class LatePart(Widget):
    """A part whose scripts and style come when it is looked at, see ``late_scripts``."""

    _module: ClassVar[str]
    _scripts = ("late_part.js",)

    def __init__(self, value: Any = None, **html_options: Any):
        super().__init__(value, **{"module": self._module, **html_options})


class CostPanel(LatePart):
    """What the runs cost, as bars, steps and tables. The value is the dict of ``costs.costs``."""

    _html, _module = "cost_panel.html", "cost"


class RunAgain(LatePart):
    """What asks the same again, as Python, command and link. The value is the dict of ``takeaway.run_again``."""

    _html, _module = "run_again.html", "again"


class MethodMenu(Widget):
    """Checkboxes by family, settings of the chosen methods, any of them once more with others.

    The value is ``{"chosen": [[id, params], ...], "missing": {id: sentence}}``; an update may leave keys out, the page
    keeps what it has. families, stack: of ``form.families`` and ``form.stack_recipe`` as JSON text, which gradio's page
    copies at once. most: entries that can be chosen.
    """

    _html, _css, _scripts = "method_menu.html", "method_menu.css", ("method_menu.js",)

    def __init__(
        self,
        value: dict[str, Any] | None = None,
        *,
        families: str = "[]",
        stack: str = "null",
        most: int = 0,
        **html_options: Any,
    ):
        super().__init__(value, families=families, stack=stack, most=most, **html_options)


class ChosenFile(GradioRootModel):
    """What the browser sends and gets: a file, or nothing, which ``gr.HTML`` in the browser spells as empty text."""

    root: FileData | None

    @model_validator(mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        return None if value == "" else value


class MediaField(Widget):
    """An image or a video: one place to drop either. The value in Python is the path of the file, unopened, or None.

    ``tokviz.media`` alone decides what is decoded: the browser's word on the type of a file only chooses the preview.
    """

    data_model = ChosenFile
    _html, _css, _scripts = "media_field.html", "media_field.css", ("media_field.js",)

    def __init__(self, value: str | FileData | None = None, **html_options: Any):
        accept = ",".join(("image/*", "video/*", *IMAGES, *VIDEOS))
        super().__init__(value, **{"max_mb": MAX_UPLOAD_MB, "accept": accept, **html_options})

    def preprocess(self, payload: ChosenFile | None) -> str | None:  # type: ignore[override]
        """Path of the uploaded file. Raises gr.Error for any other path."""
        return None if payload is None else uploaded_path(payload.root)

    def postprocess(self, value: str | Path | FileData | None) -> ChosenFile | None:  # type: ignore[override]
        """What is shown: a file by path or, with the name to show, as FileData."""
        if value is None:
            return None
        return ChosenFile(root=value if isinstance(value, FileData) else shown_file(Path(value)))

    def api_info(self) -> dict[str, Any]:
        """The value is a file."""
        return FileData.model_json_schema()


class EvidenceField(Widget):
    """Boxes on the image of the form, or on frames of its video. The value in Python is as of ``form.placed_boxes``.

    They are what a browser sent: ``tokviz.compare`` says what is wrong with a box.
    """

    _html, _css, _scripts = "evidence_field.html", "evidence_field.css", ("evidence_field.js",)

    def preprocess(self, payload: Any) -> list[Any]:  # type: ignore[override]
        """The boxes; none for anything of another shape."""
        boxes = payload.get("boxes") if isinstance(payload, dict) else None
        return boxes if isinstance(boxes, list) else []

    def postprocess(self, value: Any) -> Any:
        """Boxes as the browser draws them."""
        return {"boxes": [list(box) for box in value or ()]}


class ImageField(gr.Image):
    """An image field that hands the uploaded file on unopened: ``tokviz.media.images`` alone decides what is decoded.

    ``gr.Image`` opens every file first, so that a damaged one would reach the visitor as the bare word "Error".
    """

    def get_block_name(self) -> str:
        """The browser draws it as an image field."""
        return "image"

    def preprocess(self, payload: ImageData | None) -> str | None:
        """Path of the uploaded file. Raises gr.Error for any other path."""
        return uploaded_path(payload)


class FileButton(gr.UploadButton):
    """A button that takes one file; the value in Python is its real path."""

    def get_block_name(self) -> str:
        """The browser draws it as an upload button."""
        return "uploadbutton"

    def preprocess(self, payload: Any) -> str | None:  # type: ignore[override]
        """Path of the uploaded file, unopened."""
        root = getattr(payload, "root", payload)
        if isinstance(root, list):
            root = root[0] if len(root) == 1 else None
        return uploaded_path(root)
