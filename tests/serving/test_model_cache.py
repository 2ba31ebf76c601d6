"""Exchanging the page's model: beside the old one where there is room, else instead of it, and never to nothing."""

import gc
import logging
import threading
import time
import weakref
from io import StringIO

import pytest

from tokviz.errors import BadInput
from tokviz.serving import model_cache, model_menu, running
from tokviz.serving.model_cache import ModelCache, ModelSpec


def request(**changed):
    start = {"model": "m", "image": None, "question": "?", "methods": ("apet",), "budget": 24}
    return running.RunRequest(**{**start, **changed})


class Weights:
    """A model as far as the cache looks at it."""

    def __init__(self, machine, gb):
        self.machine, self.gb = machine, gb
        machine.used += gb

    def get_memory_footprint(self):
        return self.gb * 1e9

    def __del__(self):
        self.machine.used -= self.gb


class Vlm:
    def __init__(self, name, model):
        self.name, self.model = name, model


class Machine:
    """So many GB, and models that take theirs; ``broken`` ones fail while they load, ``absent`` ones before."""

    def __init__(self, gb):
        self.gb, self.used, self.peak = gb, 0.0, 0.0
        self.sizes = {"small": 2.0, "large": 6.0, "huge": 99.0, "broken": 6.0, "broken small": 1.0}
        self.loads = []

    def prepare(self, spec, report):
        report("Reading", None)
        if spec.name == "absent":
            raise BadInput("absent cannot be fetched.")
        return Ready(self, spec.name, self.sizes[spec.name])


class Ready:
    def __init__(self, machine, name, gb):
        self.machine, self.name, self.gb = machine, name, gb

    def check_room(self, freed_gb=0.0):
        if self.machine.used - freed_gb + self.gb > self.machine.gb:
            raise BadInput(f"{self.name} needs {self.gb} GB.")

    def load(self, report):
        self.machine.loads.append(self.name)
        if self.name.startswith("broken"):
            raise BadInput(f"{self.name} is damaged.")
        found = Vlm(self.name, Weights(self.machine, self.gb))
        self.machine.peak = max(self.machine.peak, self.machine.used)
        return found


def on(gb):
    machine = Machine(gb)
    return machine, ModelCache(machine.prepare)


def test_with_room_for_both_the_old_model_goes_after_the_new_one_is_there():
    machine, models = on(10)
    first = weakref.ref(models.get(ModelSpec("small")))
    assert models.has(ModelSpec("small")) and not models.has(ModelSpec("small", "4bit"))
    assert models.get(ModelSpec("large")).name == "large"
    assert machine.peak == 8 and machine.used == 6 and first() is None
    assert models.find("large").name == "large" and models.find("small") is None
    models.get(ModelSpec("large"))
    assert machine.loads == ["small", "large"]


def test_without_room_for_both_the_old_model_goes_first():
    machine, models = on(7)
    models.get(ModelSpec("small"))
    assert models.get(ModelSpec("large")).name == "large"
    assert machine.peak == 6 == machine.used


@pytest.mark.parametrize(
    ("name", "gb", "loads"),
    [
        ("absent", 10, ["small"]),
        ("huge", 10, ["small"]),
        ("broken", 10, ["small", "broken"]),  # beside the old one, which was never gone
        ("broken", 7, ["small", "broken", "small"]),  # instead of it: it is loaded again
    ],
)
def test_a_failed_load_leaves_the_previous_model_working(name, gb, loads):
    machine, models = on(gb)
    models.get(ModelSpec("small"))
    with pytest.raises(BadInput, match=name):
        models.get(ModelSpec(name))
    assert models.find("small").name == "small" and models.has(ModelSpec("small"))
    assert machine.loads == loads and machine.used == 2


def test_the_first_model_that_fails_leaves_nothing_behind():
    machine, models = on(10)
    with pytest.raises(BadInput, match="damaged"):
        models.get(ModelSpec("broken"))
    assert models.find("broken") is None and machine.used == 0
    assert models.get(ModelSpec("small")).name == "small"


def test_a_model_that_still_answers_is_neither_freed_nor_loaded_twice():
    machine, models = on(7)
    answering = models.get(ModelSpec("small"))
    with pytest.raises(BadInput, match="large needs"):
        models.get(ModelSpec("large"))
    assert models.find("small") is answering and machine.loads == ["small"]
    del answering
    assert models.get(ModelSpec("large")).name == "large"


def test_two_tabs_that_want_one_model_load_it_once():
    machine, models = on(10)
    slow, found = machine.prepare, []

    def prepare(spec, report):
        time.sleep(0.2)
        return slow(spec, report)

    models._prepare = prepare
    tabs = [threading.Thread(target=lambda: found.append(models.get(ModelSpec("small")))) for _ in range(3)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert machine.loads == ["small"] and len({id(vlm) for vlm in found}) == 1


def test_steps_tell_what_is_done_and_raise_what_goes_wrong():
    def work(report):
        report("Loading weights", 0.25)
        time.sleep(0.7)
        report("Loading weights", 1.0)

    told = list(model_cache.steps(work))
    assert told[0].startswith("Loading weights, 25% … 0 s") and told[-1].startswith("Loading weights, 100%")

    def fails(report):
        raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        list(model_cache.steps(fails))


def test_the_embedded_model_is_loaded_with_steps_and_described(monkeypatch, vlm):
    monkeypatch.setattr(model_cache, "CACHE", ModelCache())
    before = model_cache.model_facts("tokviz-tiny")
    assert before == "llava · 5.0 M parameters · images"
    asked = request(model="tokviz-tiny", question="", methods=(), budget=1)
    told = list(model_cache.load_steps(asked.spec))
    assert model_cache.CACHE.has(asked.spec) and any(words.startswith("Loading weights") for words in told)
    assert model_cache.model_facts("tokviz-tiny") == "Loaded · cpu · float32 · attention sdpa"
    assert model_cache.loaded("tokviz-tiny").record == vlm.record
    gc.collect()


def test_what_is_not_offered_is_refused(monkeypatch):
    monkeypatch.setenv("TOKVIZ_MODEL", "tokviz-tiny")
    with pytest.raises(BadInput, match="does not offer"):
        list(model_cache.load_steps(ModelSpec("llava-hf/llava-1.5-7b-hf")))
    with pytest.raises(BadInput, match="Weights are"):
        ModelSpec("tokviz-tiny", precision="2bit").checked()


def test_offers_say_family_size_and_memory(monkeypatch, tmp_path):
    from tokviz.models.catalog import embedded_folder

    for name in ("TOKVIZ_MODEL", "TOKVIZ_PUBLIC", "SPACE_ID", "HOST", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    seven = model_menu.model_option("llava-hf/llava-1.5-7b-hf")
    assert seven.label == "LLaVA-1.5 7B · ≈ 15 GB"
    assert seven.facts().startswith("llava · 7.1 B parameters · ≈ 14.8 GB in bfloat16, 5 GB with 4-bit weights")
    monkeypatch.setenv("TOKVIZ_MODEL", f"{embedded_folder()}/, {tmp_path}/nothing, owner/elsewhere")
    mine, nothing, elsewhere = model_menu.model_options()
    assert mine.name == "tokviz-tiny" and mine.family == "llava" and mine.parameters == 5042144
    assert mine.memory_gb == 0.0 and nothing.facts() == "architecture unknown · images"
    assert elsewhere.id == "owner/elsewhere" and elsewhere.parameters is None
    assert elsewhere.as_data()["takes"] == ["image"]


def test_memory_that_runs_out_while_a_model_answers_is_a_sentence(monkeypatch, tmp_path):
    from PIL import Image

    import tokviz

    Image.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    asked = request(
        model="tokviz-tiny", image=str(tmp_path / "grey.png"), question="what is it ?", methods=("random",), budget=9
    )

    def fails(error):
        def events(*arguments, **options):
            raise error
            yield

        monkeypatch.setattr(tokviz, "compare_events", events)
        return list(running.run_request(asked, threading.Event()))

    with pytest.raises(BadInput, match="ran out of memory while tokviz-tiny answered"):
        fails(MemoryError())
    with pytest.raises(ZeroDivisionError):
        fails(ZeroDivisionError())


def test_on_a_public_server_only_what_is_there_or_named_is_offered(monkeypatch, tmp_path):
    """Any visitor could start a download of 30 GB in the only place of the GPU."""
    cached = {"Qwen/Qwen2-VL-2B-Instruct"}
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda name, file, revision=None: "/x" if name in cached else None
    )
    for name in ("TOKVIZ_MODEL", "TOKVIZ_PUBLIC", "SPACE_ID", "HOST", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    everything = len(model_menu.model_options())
    assert everything > 20 and not model_menu.is_public()
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert {one.id for one in model_menu.model_options()} == {"tokviz-tiny", "tokviz-tiny-video", *cached}
    with pytest.raises(BadInput, match="does not offer"):
        ModelSpec("llava-hf/llava-1.5-7b-hf").checked()
    monkeypatch.setenv("TOKVIZ_MODEL", "llava-hf/llava-1.5-7b-hf")
    assert [one.id for one in model_menu.model_options()] == ["llava-hf/llava-1.5-7b-hf"]
    model_menu.check_may_load("llava-hf/llava-1.5-7b-hf", "203.0.113.9")


def test_a_caller_from_elsewhere_never_starts_a_download(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    for name in ("TOKVIZ_MODEL", "TOKVIZ_PUBLIC", "SPACE_ID", "HOST", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    model_menu.check_may_load("llava-hf/llava-1.5-7b-hf", "127.0.0.1")
    model_menu.check_may_load("tokviz-tiny", "203.0.113.9")
    with pytest.raises(BadInput, match="not on this server"):
        model_menu.check_may_load("llava-hf/llava-1.5-7b-hf", "203.0.113.9")
    monkeypatch.setenv("TOKVIZ_PUBLIC", "1")
    with pytest.raises(BadInput, match="not on this server"):
        model_menu.check_may_load("llava-hf/llava-1.5-7b-hf", "127.0.0.1")


def test_folders_of_the_server_are_not_told(monkeypatch, tmp_path):
    folder = tmp_path / "somewhere" / "my-model"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TOKVIZ_MODEL", f"{folder},tokviz-tiny")
    told = [one.as_data() for one in model_menu.model_options()]
    assert [one["id"] for one in told] == ["my-model", "tokviz-tiny"] and str(tmp_path) not in str(told)
    assert model_menu.model_option("my-model").id == model_menu.model_option(str(folder)).id == str(folder)
    assert [option.shown for option in model_menu.model_options()] == ["my-model", "tokviz-tiny"]
    assert request(model="my-model").spec.name == str(folder)
    twin = tmp_path / "elsewhere" / "my-model"
    twin.mkdir(parents=True)
    monkeypatch.setenv("TOKVIZ_MODEL", f"{folder},{twin}")
    assert [one.shown for one in model_menu.model_options()] == ["somewhere/my-model", "elsewhere/my-model"]
    assert model_menu.id_of("elsewhere/my-model") == str(twin)
    monkeypatch.setenv("TOKVIZ_MODEL", f"{folder},tokviz-tiny")
    with pytest.raises(BadInput) as refused:
        model_menu.model_option("x\nERROR forged line")
    assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value)


def test_the_log_tells_where_an_error_was_and_not_what_a_visitor_wrote(monkeypatch):
    from tokviz.ui.failures import log_failure

    written = StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(written)])
    question, file = "my secret question\nERROR forged line", "holiday.png"[:11]

    def fail():
        try:
            raise OSError(question)
        except OSError as error:
            raise RuntimeError(file) from error

    def logged(debug):
        monkeypatch.setenv("TOKVIZ_DEBUG", debug)
        written.truncate(written.seek(0))
        try:
            fail()
        except RuntimeError:
            log_failure("a comparison failed")
        return written.getvalue()

    plain, whole = logged(""), logged("1")
    assert "builtins.RuntimeError" in plain and "builtins.OSError" in plain and "in fail" in plain
    assert "secret" not in plain and "holiday" not in plain and "holiday" in whole
