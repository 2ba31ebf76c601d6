"""What is taken away: tables of patches, the ZIP file, the page that opens offline, figures as the lanes show them."""

import csv
import io
import json
import re
import zipfile

import pytest
from synthetic import HOSTILE, comparison

from tokviz.comparison import Comparison
from tokviz.errors import BadInput
from tokviz.media.images import rgb_digest, stored_image
from tokviz.runs.metrics import carriers
from tokviz.ui.files import AS_SHOWN, shown_options
from tokviz.ui.scripts import COST_SCRIPTS, VIEW_SCRIPTS, script
from tokviz.viz.patches import csv_text


@pytest.fixture(scope="module")
def session():
    """Its image is stored whole, as those are that the library made."""
    made = comparison()
    image = made.image.model_copy(update={"sha256": rgb_digest(stored_image(made.image))})
    return made.model_copy(update={"image": image})


def test_the_table_of_patches_says_what_became_of_each(session):
    run = session["apet"]
    rows = session.patches("apet")
    carried = carriers(run.stages, session.grid.n_tokens)
    assert [row["token"] for row in rows if row["fate"] == "kept"] == run.kept and len(rows) == 576
    assert [row["in_token"] for row in rows] == [token if token >= 0 else None for token in carried]
    assert [row["approximation error"] for row in rows] == run.stages[0].score.values
    assert sum(row["evidence"] for row in rows) == 9 and rows[25]["row"] == 1 and rows[25]["column"] == 1
    two = session.patches("todre")
    assert {row["stages_survived"] for row in two} == {0, 1, 2} and "stage 2: text attention, share" in two[0]
    with pytest.raises(BadInput, match="has no patches"):
        failed = comparison(failed=True)
        failed.patches(len(failed) - 1)


def test_no_text_becomes_a_formula_in_a_spreadsheet():
    text = csv_text([{"=a": "@SUM(A1)", "b": -1.5, "c": None, "d": True, "e": 'say "x", y'}])
    assert list(csv.reader(io.StringIO(text))) == [
        ["'=a", "b", "c", "d", "e"],
        ["'@SUM(A1)", "-1.5", "", "yes", 'say "x", y'],
    ]


def test_everything_is_in_the_zip_under_names_that_say_it(session, tmp_path):
    content = session.to_zip(tmp_path / "all.zip", view="score", views=("kept", "ab", "clusters"), dpi=50, title="Mine")
    assert content == (tmp_path / "all.zip").read_bytes()
    packed = zipfile.ZipFile(io.BytesIO(content))
    stem = "tokviz-what-color-is-the-triangle-64-tokens"
    names = {name.removeprefix(f"{stem}/") for name in packed.namelist()}
    figures = {f"{stem}-score.{kind}" for kind in ("png", "svg", "pdf")} | {
        f"{stem}-{v}.pdf" for v in ("kept", "ab", "clusters")
    }
    tables = {f"{stem}-numbers.csv", *(f"{stem}-patches-{run.key}.csv" for run in session)}
    assert names == figures | tables | {
        f"{stem}.json",
        f"{stem}.html",
        "image.png",
        "run-again.py",
        "run-again.txt",
        "README.txt",
    }
    assert Comparison.from_json(packed.read(f"{stem}/{stem}.json")) == session
    code = packed.read(f"{stem}/run-again.py").decode()
    assert "'image.png'" in code and code == session.to_python("image.png")
    svg = packed.read(f"{stem}/{stem}-score.svg").decode()
    assert ">Mine</text>" in re.sub(r"\s*<", "<", svg) and svg.count("<text") > 10  # letters stay letters
    table = list(csv.DictReader(io.StringIO(packed.read(f"{stem}/{stem}-patches-apet.csv").decode())))
    assert [int(row["token"]) for row in table if row["fate"] == "kept"] == session["apet"].kept
    assert all(name in packed.read(f"{stem}/README.txt").decode() for name in (f"{stem}.html", "run-again.py"))
    with pytest.raises(BadInput, match="view must be one of"):
        session.to_zip(view="nosuch")


def test_a_saved_page_holds_what_came_from_elsewhere_as_data_only():
    hostile = comparison(
        answer=HOSTILE + "</script><script>alert(1)</script>", question=HOSTILE + "</title><img src=x>"
    )
    html = hostile.to_html()
    assert html.count("<script") == html.count("</script>") == 2 and "<img" not in html
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    assert data["view"]["question"] == hostile.request.question and data["costs"]["runs"][0]["key"] == "full"
    assert "default-src 'none'" in html and not re.search(r"""(?:src|href)=["']?(?:http|//)|url\(|@import""", html)
    whole = sum(len(script(name)) for name in (*VIEW_SCRIPTS, *COST_SCRIPTS))
    assert len(html) < whole + 420_000  # the noise of its image is 250 KB


def test_a_figure_is_of_the_lanes_stages_and_maps_that_are_shown(session):
    shown = {
        "view": "score", "lanes": ["full", "todre", "apet", "nosuch"],
        "stages": {"todre": 1, "apet": 0, "fastervlm": 0},
        "maps": {"todre": "text attention", "apet": "distance to the basis"}, "a": "apet", "b": None, "reach": 3,
    }  # fmt: skip
    lanes = ["full", "todre", "apet"]
    options = shown_options(session, AS_SHOWN, json.dumps(shown))
    assert options == {
        "view": "score", "methods": lanes, "stages": {"todre": 1, "apet": 0},
        "maps": {"todre": "text attention", "apet": "distance to the basis"},
    }  # fmt: skip
    session.figure(dpi=40, **options)
    assert shown_options(session, "kept", json.dumps(shown)) == {"view": "kept", "methods": lanes}
    two = shown_options(session, AS_SHOWN, json.dumps({**shown, "view": "ab", "b": "todre"}))
    assert two == {"view": "ab", "methods": ["apet", "todre"], "against": "apet"}
    chance = shown_options(session, AS_SHOWN, json.dumps({**shown, "view": "chance"}))
    assert chance == {"view": "random", "methods": lanes, "stages": {"todre": 1, "apet": 0}, "radius": 3}
    session.figure(dpi=40, **two), session.figure(dpi=40, **chance)


@pytest.mark.parametrize(
    "shown",
    ["", "[", "[1]", "null", '{"lanes": 3, "stages": [1], "maps": "x", "view": {}, "a": [], "reach": true}',
     '{"view": "score", "lanes": ["apet"], "stages": {"apet": 9}, "maps": {"apet": 4}}', '{"stages": {"apet": "0"}}'],
)  # fmt: skip
def test_what_a_browser_makes_up_about_the_lanes_is_left_out(session, shown):
    options = shown_options(session, AS_SHOWN, shown)
    assert options["view"] in ("kept", "score") and "stages" not in options and "maps" not in options
    session.figure(dpi=40, **options)
