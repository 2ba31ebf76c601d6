"""The named endpoints of the running page, called as a program would: results, and a sentence for every bad input."""

import io

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from tokviz.comparison import Comparison

BUDGET = 16


@pytest.fixture(scope="module")
def client(live_site):
    return Client(live_site, verbose=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    grey = Image.linear_gradient("L").resize((260, 200))
    grey.convert("RGB").save(folder / "plain.png")
    grey.convert("RGBA").save(folder / "alpha.png")
    grey.convert("I;16").save(folder / "sixteen.png")
    grey.save(folder / "animated.gif", save_all=True, append_images=[grey.rotate(90)])
    rotated = Image.Exif()
    rotated[274] = 6
    grey.convert("RGB").save(folder / "rotated.jpg", exif=rotated)
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    (folder / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    huge = io.BytesIO()
    Image.new("1", (11_000, 11_000)).save(huge, "PNG")
    (folder / "huge.png").write_bytes(huge.getvalue())
    return folder


def ask(client, image, **changed):
    request = {"question": "what color is the circle ?", "methods": ["fastervlm"], "budget": BUDGET, **changed}
    file = None if image is None else handle_file(str(image))
    return client.predict(image=file, api_name="/compare", **request)


def test_compare_returns_the_comparison(client, files):
    result = ask(client, files / "plain.png", methods=["apet", "random"], params={"apet": {"basis_tokens": 5}}, seed=3)
    whole = Comparison.model_validate(result)
    assert [run.method for run in whole.runs] == ["full", "apet", "random"]
    assert whole["apet"].params["basis_tokens"] == 5 and whole.request.seed == 3
    assert len(whole["random"].kept) == BUDGET


def test_the_same_question_again_costs_no_model_time_and_says_so(client, files):
    first, again, other = (
        Comparison.model_validate(ask(client, files / name, seed=77))
        for name in ("plain.png", "plain.png", "alpha.png")
    )
    assert again.model_copy(update={"warnings": first.warnings}) == first  # its times, too, to the last digit
    (said,) = set(again.warnings) - set(first.warnings)
    assert said.startswith("Measured at ") and " UTC and kept" in said
    assert said not in other.warnings and other.timings != first.timings


def test_the_oracle_goes_by_the_boxes_that_a_program_gives(client, files):
    boxes = [[10, 10, 90, 60], [100, 20, 120, 40]]
    whole = Comparison.model_validate(ask(client, files / "plain.png", methods=["oracle"], evidence=boxes))
    assert whole.request.evidence == [tuple(box) for box in boxes] and len(whole["oracle"].kept) == BUDGET
    assert whole["oracle"].stages[0].facts["tokens_with_evidence"] > 0
    whole = Comparison.model_validate(ask(client, files / "plain.png", methods=["oracle"]))
    assert whole["oracle"].error.startswith("Oracle needs evidence")
    for wrong, sentence in (
        ([[1, 2, 3]], "evidence must be a list of boxes"),
        ("all", "evidence must be a list of boxes"),
        ([[9, 0, 3, 5]], "An evidence box is x0, y0, x1, y1"),
        ([["a", 0, 3, 5]], "An evidence box is x0, y0, x1, y1"),
        ([[0, 1, 1, 3, 5]], "Evidence in frames is for videos"),
    ):
        with pytest.raises(AppError, match=sentence):
            ask(client, files / "plain.png", evidence=wrong)


def test_one_method_runs_more_than_once_with_other_parameters(client, files):
    methods = ["apet", ["apet", {"mode": "official"}], ["apet", {"mode": "paper"}], ["random", {}]]
    whole = Comparison.model_validate(
        ask(client, files / "plain.png", methods=methods, params={"apet": {"basis_tokens": 5}})
    )
    # The third is the first once more.
    assert [run.key for run in whole.runs] == [
        "full",
        "apet (basis_tokens=5)",
        "apet (mode=official, basis_tokens=5)",
        "random",
    ]
    assert [run.params["mode"] for run in whole.runs if run.method == "apet"] == ["paper", "official"]


def test_a_method_that_the_model_cannot_serve_says_so_in_its_lane_and_in_the_list(client, files):
    listed = {method["id"]: method["missing"] for method in client.predict(api_name="/methods")}
    unserved = {method: sentence for method, sentence in listed.items() if sentence}
    assert unserved  # the embedded model has no crops and no text tower
    whole = Comparison.model_validate(ask(client, files / "plain.png", methods=[*unserved, "random"]))
    assert {run.method: run.error for run in whole.runs} == {**unserved, "full": None, "random": None}


@pytest.mark.parametrize(
    ("name", "size"), [("alpha.png", (260, 200)), ("sixteen.png", (260, 200)), ("animated.gif", (260, 200)),
                       ("rotated.jpg", (200, 260))],
)  # fmt: skip
def test_unusual_images_are_read_in_display_orientation(client, files, name, size):
    whole = Comparison.model_validate(ask(client, files / name))
    assert (whole.image.width, whole.image.height) == whole.grid.image_size == size


@pytest.mark.parametrize(
    ("image", "changed", "sentence"),
    [
        (None, {}, "There is no image"),
        ("corrupt.png", {}, "damaged or incomplete"),
        ("huge.png", {}, "megapixels"),
        ("one.png", {}, "each side needs at least"),
        ("plain.png", {"question": ""}, "There is no question"),
        ("plain.png", {"question": "a" * 10_000}, "10,000 characters"),
        ("plain.png", {"budget": 0}, "budget must be a whole number from 1"),
        ("plain.png", {"budget": -3}, "budget must be a whole number from 1"),
        ("plain.png", {"budget": 100_000}, "budget must be a whole number from 1"),
        ("plain.png", {"budget": 2.5}, "budget must be a whole number"),
        ("plain.png", {"methods": ["nonsense"]}, "There is no method 'nonsense'"),
        ("plain.png", {"methods": "apet"}, "methods must be a list of ids"),
        ("plain.png", {"methods": ["apet", ["apet"]]}, "methods must be a list of ids"),
        ("plain.png", {"methods": [["apet", {"speed": 2}]]}, "has no parameter 'speed'"),
        ("plain.png", {"methods": [["apet", {"mode": {"a": [1]}}]]}, "mode must be one of"),
        ("plain.png", {"methods": [["apet", {"basis_tokens": i}] for i in range(1, 50)]}, "at most 48 methods"),
        ("plain.png", {"model": "someone/else"}, "does not offer a model"),
        ("plain.png", {"budget_as": "monthly"}, "budget_as must be"),
        ("plain.png", {"params": {"fastervlm": {"speed": 2}}}, "has no parameter 'speed'"),
        ("plain.png", {"params": ["not", "a", "mapping"]}, "params must be"),
        ("plain.png", {"max_new_tokens": 0}, "number of new tokens must be"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(client, files, image, changed, sentence):
    with pytest.raises(AppError) as refused:
        ask(client, image and files / image, **changed)
    assert sentence in str(refused.value)


def test_the_server_goes_on_after_bad_input(client, files):
    assert Comparison.model_validate(ask(client, files / "plain.png")).runs[1].error is None


def test_methods_are_listed_and_the_plumbing_is_not(client):
    listed = client.predict(api_name="/methods")
    assert {"full", "apet", "fastervlm", "random"} <= {method["id"] for method in listed}
    studies = {"/select_only", "/sweep", "/inside", "/horizon", "/rescue", "/ask_with"}
    endpoints = {"/compare", *studies, "/methods", "/models"}
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == endpoints


def test_the_docstrings_of_the_endpoints_arrive(client, live_site):
    told = httpx.get(f"{live_site}gradio_api/info").json()["named_endpoints"]
    compare = {parameter["parameter_name"]: parameter for parameter in told["/compare"]["parameters"]}
    for name, parameter in compare.items():
        assert parameter["type"]["description"] == parameter["python_type"]["description"], name
        assert parameter["type"]["description"].endswith("."), name
    assert compare["question"]["python_type"]["description"] == "The question, up to 2,000 characters."
    assert compare["image"]["python_type"]["description"].endswith("was uploaded to this server.")  # its fourth line
    assert told["/compare"]["returns"][0]["python_type"]["description"].startswith("The Comparison as JSON")
    assert "Returns: One object per method: id, label" in told["/methods"]["description"]
    assert "Visual tokens to keep" in client.view_api(print_info=False, return_format="str")


def test_models_are_listed_with_what_they_are_loaded_on(client, files):
    ask(client, files / "plain.png")
    (listed,) = client.predict(api_name="/models")
    assert (listed["id"], listed["family"], listed["takes"]) == ("tokviz-tiny", "llava", ["image"])
    assert listed["parameters"] == listed["loaded"]["parameters"] and listed["licence"] == "apache-2.0"
    assert listed["loaded"]["attention"] == "sdpa" and listed["loaded"]["quantization"] is None
