"""The patch view as a document of its own: no server, no gradio, the same scripts."""

import json

from tokviz.records import ImageRecord
from tokviz.ui.payload import packed, to_payload
from tokviz.ui.scripts import VIEW_SCRIPTS, VIEW_STYLES, asset


def _file(record: ImageRecord) -> dict[str, str]:
    return {"url": f"data:{record.mime};base64,{record.base64}"}


def payload(session) -> dict:
    """What the page would give to the view: a film has no image."""
    if session.video:
        return packed(to_payload(session, frames=[_file(frame.image) for frame in session.video.frames]))
    return packed(to_payload(session, image=_file(session.image)))


def document(session) -> str:
    """HTML that shows a comparison; ``showNext(payload)`` in the browser shows another one."""
    value = json.dumps(payload(session)).replace("<", "\\u003c")
    scripts = "\n".join(asset(name) for name in VIEW_SCRIPTS)
    styles = "\n".join(map(asset, VIEW_STYLES))
    return (
        f"<meta name=viewport content='width=device-width'><style>body {{ margin: 8px }}"
        f"{asset('colours.css')}{asset('page.css')}"
        f"{styles}</style><div id=root>{asset('patch_view.html')}</div>"
        f"<script>const props = {{ value: {value} }};\n((element, props, watch) => {{{scripts}\n}})"
        "(document.querySelector('#root'), props, (name, changed) => {"
        " window.showNext = (value) => { props.value = value; changed(); }; });</script>"
    )
