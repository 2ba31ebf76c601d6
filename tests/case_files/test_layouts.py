"""Every layout on files of its true form, which are written here; how it is recognised; broken entries in each."""

import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from tokviz.cases import LAYOUTS, METRICS, Case, open_cases
from tokviz.errors import BadInput
from tokviz.tables import CATEGORIES, NUMBERS


def _image(path, size=(200, 100)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "white").save(path)


def _lines(path, *entries):
    path.write_text("".join(f"{entry if isinstance(entry, str) else json.dumps(entry)}\n" for entry in entries))
    return path


def _json(path, value):
    path.write_text(json.dumps(value))
    return path


def write_pope(folder):
    """As in the repository of POPE: lines, although the file is called .json; numbers start anew in each split."""
    for split in ("adversarial", "random"):
        image = "COCO_val2014_000000310196.jpg"
        asked = {"question_id": 1, "image": image, "text": "Is there a snowboard in the image?", "label": "yes"}
        other = {"question_id": 2, "image": image, "text": "Is there a backpack in the image?", "label": "no"}
        _lines(folder / f"coco_pope_{split}.json", asked, other)
    _image(folder / "val2014" / "COCO_val2014_000000310196.jpg")
    return folder


def write_vqav2(folder):
    """v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json."""
    info = {"info": {"year": 2017}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    questions = [
        {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000},
        {"image_id": 262148, "question": "How many people are there?", "question_id": 262148001},
    ]
    people = [{"answer": "down", "answer_confidence": "yes", "answer_id": i} for i in range(1, 10)]
    people.append({"answer": "at table", "answer_confidence": "maybe", "answer_id": 10})
    annotation = {
        "question_type": "none of the above",
        "multiple_choice_answer": "down",
        "answers": people,
        "image_id": 262148,
        "answer_type": "other",
        "question_id": 262148000,
    }
    _json(folder / "v2_mscoco_val2014_annotations.json", info | {"annotations": [annotation]})
    _image(folder / "val2014" / "COCO_val2014_000000262148.jpg")
    document = info | {"task_type": "Open-Ended", "questions": questions}
    return _json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", document)


def write_gqa(folder):
    """val_balanced_questions.json and val_sceneGraphs.json."""
    question = {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "apple (271881)"}],
        "entailed": [],
        "equivalent": ["201307251"],
        "question": "Is there a red apple on the table?",
        "imageId": "2407890",
        "isBalanced": True,
        "groups": {"global": None, "local": "8r-binary-apple"},
        "answer": "no",
        "semanticStr": "select: apple (271881)",
        "annotations": {
            "answer": {},
            "question": {"4": "271881", "7": "279472,275312"},
            "fullAnswer": {"4": "271881", "5": "404"},
        },
        "types": {"detailed": "existAttrRel", "semantic": "relation", "structural": "verify"},
        "fullAnswer": "No, there is an apple on the table but it is green.",
    }
    objects = {
        "271881": {"name": "apple", "x": 10, "y": 20, "w": 30, "h": 40, "attributes": ["green"], "relations": []},
        "279472": {"name": "table", "x": 0, "y": 50, "w": 200, "h": 50, "attributes": [], "relations": []},
        "275312": {"name": "cup", "x": 100, "y": 5, "w": 9, "h": 9, "attributes": [], "relations": []},
        "1": {"name": "wall", "x": 0, "y": 0, "w": 200, "h": 100, "attributes": [], "relations": []},
    }
    graph = {"width": 200, "height": 100, "location": "kitchen", "objects": objects}
    _json(folder / "val_sceneGraphs.json", {"2407890": graph})
    _image(folder / "images" / "2407890.jpg")
    return _json(folder / "val_balanced_questions.json", {"201307251": question})


def write_textvqa(folder):
    """TextVQA_0.5.1_val.json and TextVQA_Rosetta_OCR_v0.2_val.json; boxes are shares of the image."""
    question = {
        "question": "what is the brand of this camera?",
        "image_id": "003a8ae2ef43b901",
        "image_classes": ["Cassette deck"],
        "flickr_original_url": "https://farm2.staticflickr.com/4/5_o.jpg",
        "flickr_300k_url": "https://c4.staticflickr.com/4/5_z.jpg",
        "image_width": 200,
        "image_height": 100,
        "answers": ["nous les gosses", "dakota", "clos culombu", *["dakota digital"] * 7],
        "question_tokens": ["what", "is", "the", "brand", "of", "this", "camera"],
        "question_id": 34602,
        "set_name": "val",
    }
    box = {"width": 0.25, "height": 0.1, "rotation": -3.5, "roll": 0, "pitch": 0, "yaw": 0}
    info = [
        {"word": "DAKOTA", "bounding_box": box | {"top_left_x": 0.5, "top_left_y": 0.2}},
        {"word": "DIGITAL", "bounding_box": box | {"top_left_x": 0.5, "top_left_y": 0.4}},
        {"word": "clos", "bounding_box": box | {"top_left_x": 0.0, "top_left_y": 0.0}},
    ]
    words = {"image_id": "003a8ae2ef43b901", "ocr_tokens": ["DAKOTA", "DIGITAL", "clos"], "ocr_info": info}
    about = {"dataset_type": "val", "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    _json(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", about | {"data": [words]})
    _image(folder / "train_images" / "003a8ae2ef43b901.jpg")
    return _json(folder / "TextVQA_0.5.1_val.json", about | {"data": [question]})


def write_vizwiz(folder):
    """val.json of VizWiz-VQA."""
    people = [{"answer": "unsuitable", "answer_confidence": "yes"}] * 8 + [
        {"answer": "beach", "answer_confidence": "no"}
    ]
    entry = {
        "image": "VizWiz_val_00000001.jpg",
        "question": "Can you tell me what is in this can please?",
        "answers": people,
        "answer_type": "unanswerable",
        "answerable": 0,
    }
    _image(folder / "val" / "VizWiz_val_00000001.jpg")
    return _json(folder / "val.json", [entry])


def write_scienceqa(folder):
    """problems.json, with a question that has no image."""
    problem = {
        "question": "Which of these states is farthest north?",
        "choices": ["West Virginia", "Louisiana", "Arizona", "Oklahoma"],
        "answer": 0,
        "hint": "",
        "image": "image.png",
        "task": "closed choice",
        "grade": "grade2",
        "subject": "social science",
        "topic": "geography",
        "category": "Geography",
        "skill": "Read a map: cardinal directions",
        "lecture": "Maps have four cardinal directions.",
        "solution": "To find the answer, look at the compass rose.",
        "split": "train",
    }
    _image(folder / "images" / "train" / "1" / "image.png")
    other = problem | {"answer": 1, "hint": "The air is cold.", "split": "test", "subject": "natural science"}
    return _json(folder / "problems.json", {"1": problem, "2": problem | {"image": None}, "7": other})


def write_mme(folder):
    """MME_Benchmark_release_version: both forms of a category, and results that are none."""
    root = folder / "MME_Benchmark_release_version"
    _image(root / "count" / "000000006723.jpg")
    asked = "Is there {} people in the image? Please answer yes or no."
    lines = f"{asked.format('one')}\tNo\n{asked.format('two')}\tYes\n"
    (root / "count" / "000000006723.txt").write_text(lines)
    _image(root / "artwork" / "images" / "10002.png")
    (root / "artwork" / "questions_answers_YN").mkdir()
    text = "Does this artwork exist in the form of {}? Please answer yes or no."
    lines = f"{text.format('painting')}\tYes\n{text.format('glassware')}\tNo"
    (root / "artwork" / "questions_answers_YN" / "10002.txt").write_text(lines)
    (root / "eval_tool").mkdir()
    (root / "eval_tool" / "count.txt").write_text("000000006723.jpg\tone?\tYes\tNo\n")
    return root


def write_refcoco(folder):
    """refs(unc).p, a pickle that Python 2 wrote, and instances.json."""
    sentence = {"tokens": ["lady", "in", "red"], "raw": "LADY in red!", "sent_id": 8, "sent": "lady in red"}
    ref = {
        "sent_ids": [8, 9],
        "file_name": "COCO_train2014_000000581857_16.jpg",
        "ann_id": 1719310,
        "ref_id": 3,
        "image_id": 581857,
        "split": "testA",
        "sentences": [sentence, sentence | {"sent_id": 9, "sent": "left woman", "raw": "left woman"}],
        "category_id": 1,
    }
    (folder / "refs(unc).p").write_bytes(pickle.dumps([ref, ref | {"ref_id": 4, "ann_id": 5}], protocol=2))
    image = {"file_name": "COCO_train2014_000000581857.jpg", "height": 100, "width": 200, "id": 581857, "license": 1}
    box = {"bbox": [10.5, 20.0, 30.25, 40.0], "image_id": 581857, "category_id": 1, "id": 1719310, "iscrowd": 0}
    kinds = [{"supercategory": "person", "id": 1, "name": "person"}]
    _json(folder / "instances.json", {"images": [image], "annotations": [box], "categories": kinds})
    _image(folder / "train2014" / "COCO_train2014_000000581857.jpg")
    return folder


def write_llava(folder):
    """llava_mme.jsonl of LLaVA's eval.zip: the image is the question's id, so two questions share it."""
    asked = "Is there {} in the image?\nAnswer the question using a single word or phrase."
    entry = {"question_id": "existence/1.png", "image": "existence/1.png", "category": "existence"}
    _image(folder / "existence" / "1.png")
    lines = [entry | {"text": asked.format(thing)} for thing in ("a dog", "a cat")]
    return _lines(folder / "llava_mme.jsonl", *lines, {"question_id": 5, "text": "no image here"})


def write_lmms_eval(folder):
    """A sample log of lmms-eval 0.7: the document is not kept, the target is a text."""
    folder = folder / "llava-hf__llava-1.5-7b-hf"
    folder.mkdir()
    asked = "Is there a snowboard in the image?\nAnswer the question using a single word or phrase."
    sample = {
        "doc_id": 0,
        "target": "yes",
        "filtered_resps": "Yes",
        "token_counts": [{"output_tokens": 2}],
        "doc_hash": "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b",
        "pope_accuracy": {"question_id": "1", "score": 1.0, "prediction": "yes", "ground_truth": "yes"},
        "input": asked,
    }
    _image(folder / "0.png")
    log = folder / "20260806_102223_samples_pope.jsonl"
    return _lines(log, sample, sample | {"doc_id": 1, "target": "['no', 'none']", "input_media": ["b.jpg"]})


def write_vlmevalkit(folder):
    """A result table of VLMEvalKit as TSV: everything quoted, options in columns, a line break in a cell."""
    folder = folder / "LLaVA-v1.5-7B"
    folder.mkdir()
    header = ["index", "question", "hint", "A", "B", "answer", "category", "prediction"]
    rows = [
        ["241", "Which is right?", "Look at\nthe shelf.", "yes, it is", "no", "A", "identity_reasoning", "B. no"],
        ["252", 'Is it "red"?', "", "yes", "no", "B", "identity_reasoning", "B"],
    ]
    quoted = ["\t".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) for row in [header, *rows]]
    path = folder / "LLaVA-v1.5-7B_MMBench_DEV_EN.tsv"
    path.write_text("\n".join(quoted) + "\n")
    _image(folder / "241.jpg")
    return path


WRITERS = {
    "pope": write_pope,
    "vqav2": write_vqav2,
    "gqa": write_gqa,
    "textvqa": write_textvqa,
    "vizwiz": write_vizwiz,
    "scienceqa": write_scienceqa,
    "mme": write_mme,
    "refcoco": write_refcoco,
    "llava": write_llava,
    "lmms-eval": write_lmms_eval,
    "vlmevalkit": write_vlmevalkit,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_layout_is_recognised_and_finds_its_images(tmp_path, name):
    cases = open_cases(WRITERS[name](tmp_path))
    found = list(cases)
    assert cases.layout == name and found
    there = [case for case in found if (cases.root / case.media).is_file()]
    assert cases.media_path(there[0]).is_file()
    assert cases.root / there[0].media == cases.media_path(there[0])


def test_every_layout_is_tested_here():
    assert {layout.name for layout in LAYOUTS} == {*WRITERS, "jsonl", "refcoco-point"}


def test_every_layout_metric_and_column_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "cases.md").read_text()
    names = {*(layout.name for layout in LAYOUTS), *METRICS, *CATEGORIES, *NUMBERS, *Case.model_fields}
    assert not [name for name in sorted(names) if f"`{name}`" not in page]


@pytest.mark.parametrize("name", ["vqav2", "gqa", "textvqa", "scienceqa", "pope"])
def test_a_folder_is_read_as_its_file(tmp_path, name):
    path = WRITERS[name](tmp_path)
    folder = path if path.is_dir() else path.parent
    assert list(open_cases(folder)) == list(open_cases(path))


def test_pope(tmp_path):
    cases = list(open_cases(write_pope(tmp_path)))
    assert [(case.id, case.answers, case.split) for case in cases] == [
        ("adversarial-1", ("yes",), "adversarial"),
        ("adversarial-2", ("no",), "adversarial"),
        ("random-1", ("yes",), "random"),
        ("random-2", ("no",), "random"),
    ]
    assert {(case.metric, case.family, case.image) for case in cases} == {
        ("pope", "existence", "val2014/COCO_val2014_000000310196.jpg")
    }
    alone = open_cases(tmp_path / "coco_pope_random.json", media=tmp_path / "val2014")
    assert next((case.id, case.image) for case in alone) == ("random-1", "COCO_val2014_000000310196.jpg")


def test_vqav2(tmp_path):
    first, second = open_cases(write_vqav2(tmp_path))
    assert first.answers == (*["down"] * 9, "at table")
    assert (first.id, first.family, first.metric, first.split) == ("262148000", "other", "vqa", "val2014")
    assert first.image == "val2014/COCO_val2014_000000262148.jpg"
    assert (second.question, second.answers, second.family) == ("How many people are there?", (), None)


def test_gqa_has_the_objects_of_the_question_as_evidence(tmp_path):
    (case,) = open_cases(write_gqa(tmp_path))
    assert (case.id, case.answers, case.family, case.split) == ("201307251", ("no",), "verify", "val")
    assert case.evidence == ((10, 20, 40, 60), (0, 50, 200, 100), (100, 5, 109, 14))
    (tmp_path / "val_sceneGraphs.json").unlink()
    assert [case.evidence for case in open_cases(tmp_path)] == [()]


def test_textvqa_has_the_words_of_the_answer_as_evidence(tmp_path):
    (case,) = open_cases(write_textvqa(tmp_path))
    assert (case.id, len(case.answers), case.metric, case.split) == ("34602", 10, "vqa", "val")
    assert case.evidence == (pytest.approx((100, 20, 150, 30)), pytest.approx((100, 40, 150, 50)))


def test_vizwiz(tmp_path):
    (case,) = open_cases(write_vizwiz(tmp_path))
    assert (case.id, case.family, case.split) == ("VizWiz_val_00000001", "unanswerable", "val")
    assert case.answers == (*["unsuitable"] * 8, "beach")


def test_scienceqa_leaves_out_questions_without_an_image(tmp_path):
    cases = open_cases(write_scienceqa(tmp_path))
    first, other = cases
    assert cases.left_out == {"question without an image": 1} and not cases.problems
    assert (first.id, first.answers, first.family, first.metric) == ("1", ("A",), "social science", "choice")
    assert first.question.splitlines() == [
        "Which of these states is farthest north?",
        "A. West Virginia",
        "B. Louisiana",
        "C. Arizona",
        "D. Oklahoma",
        "Answer with the option's letter from the given choices directly.",
    ]
    assert other.question.startswith("Context: The air is cold.\n") and other.answers == ("B",)


def test_mme_has_two_questions_per_image(tmp_path):
    cases = open_cases(write_mme(tmp_path))
    assert [(case.id, case.image, case.answers, case.family) for case in cases] == [
        ("artwork/10002/1", "artwork/images/10002.png", ("Yes",), "artwork"),
        ("artwork/10002/2", "artwork/images/10002.png", ("No",), "artwork"),
        ("count/000000006723/1", "count/000000006723.jpg", ("No",), "count"),
        ("count/000000006723/2", "count/000000006723.jpg", ("Yes",), "count"),
    ]
    assert not cases.problems


@pytest.mark.parametrize(("layout", "words"), [("refcoco", "bounding box"), ("refcoco-point", "(x, y)")])
def test_refcoco_has_a_case_per_sentence(tmp_path, layout, words):
    cases = open_cases(write_refcoco(tmp_path), layout)
    first, second = cases
    assert (first.id, second.id, first.metric, first.family, first.split) == ("3-8", "3-9", "box", "person", "testA")
    assert "lady in red" in first.question and words in first.question
    assert first.answers == ("[10.5, 20.0, 40.75, 60.0]",) and first.evidence == ((10.5, 20, 40.75, 60),)
    assert [str(problem) for problem in cases.problems] == [
        "refs(unc).p: entry 2: instances.json has no box of this reference"
    ] * 2


class _Hostile:
    def __reduce__(self):
        return print, ("this pickle ran",)


@pytest.mark.parametrize("value", [[_Hostile()], {"a": 1}, b""])
def test_a_pickle_that_would_run_something_is_not_opened(tmp_path, capsys, value):
    write_refcoco(tmp_path)
    (tmp_path / "refs(unc).p").write_bytes(value if value == b"" else pickle.dumps(value))
    with pytest.raises(BadInput, match=r"no pickle of plain lists|no list of references"):
        list(open_cases(tmp_path))
    assert "ran" not in capsys.readouterr().out


def test_texts_of_a_pickle_that_python_2_wrote_are_read(tmp_path):
    """[{"abc": "\\xe9x"}] as byte strings, which Python 2 pickled without saying what they mean."""
    (tmp_path / "refs(google).p").write_bytes(b"\x80\x02]}U\x03abcU\x02\xe9xsa.")
    _json(tmp_path / "instances.json", {"images": [], "annotations": []})
    cases = open_cases(tmp_path)
    assert not list(cases) and "no box of this reference" in str(cases.problems[0])


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": 1e999999999}', f"[{'9' * 5_000}]", "[NaN]", "\x00", '"\\ud800"']
)
def test_json_that_is_no_data_set_is_a_sentence(tmp_path, text):
    (tmp_path / "val.json").write_text(text)
    for layout in ("vizwiz", "vqav2", "gqa", "textvqa", "scienceqa", "llava", "lmms-eval", "vlmevalkit"):
        try:
            cases = open_cases(tmp_path / "val.json", layout)
            assert not list(cases)
        except BadInput as error:
            assert "val.json" in str(error)


def test_llava_questions_that_share_an_id_get_a_number(tmp_path):
    cases = open_cases(write_llava(tmp_path))
    assert [(case.id, case.family) for case in cases] == [
        ("existence/1.png", "existence"),
        ("existence/1.png#2", "existence"),
    ]
    assert cases.left_out == {"question without an image": 1}


def test_llava_conversations(tmp_path):
    turns = [{"from": "human", "value": "<image>\nWhich?\nA. x\nB. y"}, {"from": "gpt", "value": "B"}]
    path = _json(tmp_path / "llava_test_CQM-A.json", [{"id": "4", "image": "4/image.png", "conversations": turns}])
    (case,) = open_cases(path)
    assert (case.id, case.question, case.answers) == ("4", "Which?\nA. x\nB. y", ("B",))


def test_lmms_eval_logs_keep_the_other_answer(tmp_path):
    first, second = open_cases(write_lmms_eval(tmp_path))
    assert (first.id, first.image, first.answers, first.metric) == ("pope-0", "0.png", ("yes",), "pope")
    assert first.others == {"llava-hf__llava-1.5-7b-hf": "Yes"}
    assert (second.image, second.answers) == ("b.jpg", ("no", "none"))


def test_older_lmms_eval_logs(tmp_path):
    doc = {"question_id": "1", "question": "Is there a dog?", "answer": "no", "image_source": "COCO_val2014_1"}
    sample = {"doc_id": 0, "doc": doc | {"category": "popular"}, "target": "no", "resps": [["No"]]}
    sample |= {"filtered_resps": ["No"], "arguments": [["Is there a dog?", {}, "pope", "test", 0]]}
    path = _json(tmp_path / "pope.json", {"args": {}, "model_configs": {}, "logs": [sample]})
    (case,) = open_cases(path)
    assert (case.question, case.image, case.family) == ("Is there a dog?", "COCO_val2014_1.jpg", "popular")
    assert case.others == {"lmms-eval": "No"}


def test_vlmevalkit_tables(tmp_path):
    cases = open_cases(write_vlmevalkit(tmp_path))
    first, second = cases
    assert first.question.startswith("Look at\nthe shelf.\nWhich is right?\nA. yes, it is\nB. no\n")
    assert (first.image, first.answers, first.metric) == ("241.jpg", ("A",), "choice")
    assert first.others == {"LLaVA-v1.5-7B": "B. no"}
    assert second.question.startswith('Is it "red"?\nA. yes')


def test_vlmevalkit_json_and_sheets(tmp_path):
    row = {"index": 3, "question": "Is it red?", "answer": "Yes", "category": "color", "prediction": "no"}
    (case,) = open_cases(_json(tmp_path / "m_MME.json", [row | {"image_path": "color/3.png"}]))
    assert (case.id, case.image, case.metric, case.others) == ("3", "color/3.png", "mme", {"m_MME": "no"})
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.append(list(row))
    book.active.append(list(row.values()))
    book.save(tmp_path / "m_MME.xlsx")
    (case,) = open_cases(tmp_path / "m_MME.xlsx")
    assert (case.id, case.question, case.others) == ("3", "Is it red?", {"m_MME": "no"})


NOT_ENTRIES = {"vqav2": "questions", "textvqa": "data", "vizwiz": None, "gqa": None, "scienceqa": None}


@pytest.mark.parametrize("name", NOT_ENTRIES)
@pytest.mark.parametrize("junk", [7, "text", None, [], {"image": {"a": 1}}, {"image": 3, "image_id": []}])
def test_an_entry_of_another_form_is_a_problem_with_its_number(tmp_path, name, junk):
    path, key = WRITERS[name](tmp_path), NOT_ENTRIES[name]
    whole = json.loads(path.read_text())
    entries = whole if key is None else whole[key]
    before = len(entries)
    if isinstance(entries, list):
        entries.append(junk)
    else:
        entries["junk"] = junk
    _json(path, whole)
    cases = open_cases(path, name)
    found = len(list(cases))
    assert cases.n_problems + found + cases.left_out.total() == before + 1
    assert f"entry {before + 1}: " in str(cases.problems[-1])


def _break(whole, junk):
    """Every value of a document replaced by junk, one at a time."""
    items = whole.items() if isinstance(whole, dict) else enumerate(whole) if isinstance(whole, list) else ()
    for key, value in list(items):
        whole[key] = junk
        yield
        whole[key] = value
        yield from _break(value, junk)


@pytest.mark.parametrize("name", ["vqav2", "gqa", "textvqa", "vizwiz", "scienceqa"])
def test_whatever_stands_anywhere_in_a_document_ends_in_a_sentence(tmp_path, name):
    path = WRITERS[name](tmp_path)
    for file in list(path.parent.glob("*.json")):
        whole = json.loads(file.read_text())
        for junk in (None, [[]], {"x": [1]}, -3):
            for _ in _break(whole, junk):
                _json(file, whole)
                try:
                    list(open_cases(path, name))
                except BadInput as error:
                    assert str(error)
        _json(file, whole)


@pytest.mark.parametrize("name", ["vqav2", "gqa", "textvqa", "vizwiz", "scienceqa"])
def test_a_document_that_is_cut_short_says_where(tmp_path, name):
    path = WRITERS[name](tmp_path)
    path.write_text(path.read_text()[:-5])
    with pytest.raises(BadInput, match=r"no JSON file: .* in line 1, column \d+"):
        list(open_cases(path, name))
