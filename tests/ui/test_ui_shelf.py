"""Exchanging the page's model: beside the old one where there is room, else instead of it, and never to nothing."""

import gc
import threading
import time
import weakref

import pytest

from tokviz.errors import BadInput
from tokviz.ui import offers, running, shelf
from tokviz.ui.shelf import Shelf, Wanted


class Weights:
    """A model as far as the shelf looks at it."""

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

    def prepare(self, wanted, report):
        report("Reading", None)
        if wanted.name == "absent":
            raise BadInput("absent cannot be fetched.")
        return Ready(self, wanted.name, self.sizes[wanted.name])


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
    return machine, Shelf(machine.prepare)


def test_with_room_for_both_the_old_model_goes_after_the_new_one_is_there():
    machine, models = on(10)
    first = weakref.ref(models.get(Wanted("small")))
    assert models.has(Wanted("small")) and not models.has(Wanted("small", "4bit"))
    assert models.get(Wanted("large")).name == "large"
    assert machine.peak == 8 and machine.used == 6 and first() is None
    assert models.find("large").name == "large" and models.find("small") is None
    models.get(Wanted("large"))
    assert machine.loads == ["small", "large"]


def test_without_room_for_both_the_old_model_goes_first():
    machine, models = on(7)
    models.get(Wanted("small"))
    assert models.get(Wanted("large")).name == "large"
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
    models.get(Wanted("small"))
    with pytest.raises(BadInput, match=name):
        models.get(Wanted(name))
    assert models.find("small").name == "small" and models.has(Wanted("small"))
    assert machine.loads == loads and machine.used == 2


def test_the_first_model_that_fails_leaves_nothing_behind():
    machine, models = on(10)
    with pytest.raises(BadInput, match="damaged"):
        models.get(Wanted("broken"))
    assert models.find("broken") is None and machine.used == 0
    assert models.get(Wanted("small")).name == "small"


def test_a_model_that_still_answers_is_neither_freed_nor_loaded_twice():
    machine, models = on(7)
    answering = models.get(Wanted("small"))
    with pytest.raises(BadInput, match="large needs"):
        models.get(Wanted("large"))
    assert models.find("small") is answering and machine.loads == ["small"]
    del answering
    assert models.get(Wanted("large")).name == "large"


def test_two_tabs_that_want_one_model_load_it_once():
    machine, models = on(10)
    slow, found = machine.prepare, []

    def prepare(wanted, report):
        time.sleep(0.2)
        return slow(wanted, report)

    models._prepare = prepare
    tabs = [threading.Thread(target=lambda: found.append(models.get(Wanted("small")))) for _ in range(3)]
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

    told = list(shelf.steps(work))
    assert told[0].startswith("Loading weights, 25% … 0 s") and told[-1].startswith("Loading weights, 100%")

    def fails(report):
        raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        list(shelf.steps(fails))


def test_the_embedded_model_is_loaded_with_steps_and_described(monkeypatch, vlm):
    monkeypatch.setattr(running, "_shelf", Shelf())
    before = running.model_facts("tokviz-tiny")
    assert before == "llava · 5.0 M parameters · pictures"
    request = running.RunRequest("tokviz-tiny", None, "", (), 1)
    told = list(running.load_steps(request))
    assert running.is_loaded(request) and any(words.startswith("Loading weights") for words in told)
    assert running.model_facts("tokviz-tiny") == "Loaded · cpu · float32 · attention sdpa"
    assert running.loaded("tokviz-tiny").record == vlm.record
    gc.collect()


def test_what_is_not_offered_is_refused(monkeypatch):
    monkeypatch.setenv("TOKVIZ_MODEL", "tokviz-tiny")
    with pytest.raises(BadInput, match="does not offer"):
        list(running.load_steps(running.RunRequest("llava-hf/llava-1.5-7b-hf", None, "", (), 1)))
    with pytest.raises(BadInput, match="Weights are"):
        running.model("tokviz-tiny", precision="2bit")


def test_offers_say_family_size_and_memory(monkeypatch, tmp_path):
    from tokviz.models.catalog import embedded_folder

    for name in ("TOKVIZ_MODEL", "TOKVIZ_PUBLIC", "SPACE_ID", "HOST", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    seven = offers.offer("llava-hf/llava-1.5-7b-hf")
    assert seven.label == "LLaVA-1.5 7B · ≈ 15 GB"
    assert seven.facts().startswith("llava · 7.1 B parameters · ≈ 14.8 GB in bfloat16, 5 GB with 4-bit weights")
    monkeypatch.setenv("TOKVIZ_MODEL", f"{embedded_folder()}/, {tmp_path}/nothing, owner/elsewhere")
    mine, nothing, elsewhere = offers.offers()
    assert mine.name == "tokviz-tiny" and mine.family == "llava" and mine.parameters == 5042144
    assert mine.memory_gb == 0.0 and nothing.facts() == "architecture unknown · pictures"
    assert elsewhere.id == "owner/elsewhere" and elsewhere.parameters is None
    assert elsewhere.as_data()["takes"] == ["picture"]


def test_memory_that_runs_out_while_a_model_answers_is_a_sentence(monkeypatch, tmp_path):
    from PIL import Image

    import tokviz

    Image.new("RGB", (64, 64), "grey").save(tmp_path / "grey.png")
    request = running.RunRequest("tokviz-tiny", str(tmp_path / "grey.png"), "what is it ?", ("random",), 9)

    def fails(error):
        def events(*arguments, **options):
            raise error
            yield

        monkeypatch.setattr(tokviz, "compare_events", events)
        return list(running.run_request(request, threading.Event()))

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
    everything = len(offers.offers())
    assert everything > 20 and not offers.is_public()
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert {one.id for one in offers.offers()} == {"tokviz-tiny", "tokviz-tiny-video", *cached}
    with pytest.raises(BadInput, match="does not offer"):
        running.model("llava-hf/llava-1.5-7b-hf")
    monkeypatch.setenv("TOKVIZ_MODEL", "llava-hf/llava-1.5-7b-hf")
    assert [one.id for one in offers.offers()] == ["llava-hf/llava-1.5-7b-hf"]
    offers.check_may_load("llava-hf/llava-1.5-7b-hf", "203.0.113.9")


def test_a_caller_from_elsewhere_never_starts_a_download(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    for name in ("TOKVIZ_MODEL", "TOKVIZ_PUBLIC", "SPACE_ID", "HOST", "GRADIO_SERVER_NAME"):
        monkeypatch.delenv(name, raising=False)
    offers.check_may_load("llava-hf/llava-1.5-7b-hf", "127.0.0.1")
    offers.check_may_load("tokviz-tiny", "203.0.113.9")
    with pytest.raises(BadInput, match="not on this server"):
        offers.check_may_load("llava-hf/llava-1.5-7b-hf", "203.0.113.9")
    monkeypatch.setenv("TOKVIZ_PUBLIC", "1")
    with pytest.raises(BadInput, match="not on this server"):
        offers.check_may_load("llava-hf/llava-1.5-7b-hf", "127.0.0.1")


def test_folders_of_the_server_are_not_told(monkeypatch, tmp_path):
    folder = tmp_path / "somewhere" / "my-model"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TOKVIZ_MODEL", f"{folder},tokviz-tiny")
    told = [one.as_data() for one in offers.offers()]
    assert [one["id"] for one in told] == ["my-model", "tokviz-tiny"] and str(tmp_path) not in str(told)
    assert offers.offer("my-model").id == offers.offer(str(folder)).id == str(folder)
    assert [name for _, name in running.allowed_models()] == ["my-model", "tokviz-tiny"]
    assert running._wanted(running.RunRequest("my-model", None, "?", (), 1)).name == str(folder)
    twin = tmp_path / "elsewhere" / "my-model"
    twin.mkdir(parents=True)
    monkeypatch.setenv("TOKVIZ_MODEL", f"{folder},{twin}")
    assert [one.shown for one in offers.offers()] == ["somewhere/my-model", "elsewhere/my-model"]
    assert offers.id_of("elsewhere/my-model") == str(twin)
    monkeypatch.setenv("TOKVIZ_MODEL", f"{folder},tokviz-tiny")
    with pytest.raises(BadInput) as refused:
        offers.offer("x\nERROR forged line")
    assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value)


def test_the_log_tells_where_an_error_was_and_not_what_a_visitor_wrote(monkeypatch, caplog):
    from tokviz.ui.failures import log_failure

    question, file = "my secret question\nERROR forged line", "holiday.png"[:11]

    def fail():
        try:
            raise OSError(question)
        except OSError as error:
            raise RuntimeError(file) from error

    for debug in ("", "1"):
        monkeypatch.setenv("TOKVIZ_DEBUG", debug)
        try:
            fail()
        except RuntimeError:
            log_failure("a comparison failed")
    plain, whole = (record.getMessage() + (record.exc_text or "") for record in caplog.records)
    assert "builtins.RuntimeError" in plain and "builtins.OSError" in plain and "in fail" in plain
    assert "secret" not in plain and "holiday" not in plain and "holiday" in whole
