"""Families that other packages register (entry points): imported when asked for, named and skipped when broken."""

import json
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from tokviz.models import catalog, checkpoint, families

PACKAGE = """
from tokviz.models.catalog import CatalogEntry
from tokviz.models.llava import Llava

class Mine(Llava):
    id = "my_llava"
    catalog = (CatalogEntry("me/my-llava", "Mine", "my_llava", "mit"),)

class Misnamed(Mine):
    id = "another"
"""


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """Entry points ``name=value`` of a package that was just installed."""
    (tmp_path / "my_package.py").write_text(PACKAGE)
    (tmp_path / "broken_package.py").write_text("raise RuntimeError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)

    def register(**points):
        found = EntryPoints(EntryPoint(name, value, families.GROUP) for name, value in points.items())
        monkeypatch.setattr(families, "entry_points", lambda **wanted: found.select(**wanted))

    forget()
    yield register
    forget()
    for name in ("my_package", "broken_package"):
        sys.modules.pop(name, None)


def forget():
    families._of_another_package.cache_clear()
    catalog._catalog.cache_clear()


def test_a_family_is_imported_when_it_is_asked_for_and_is_on_the_menu(registered, tmp_path):
    registered(my_llava="my_package:Mine")
    assert "llava" in families.FAMILIES and "unheard_of" not in families.FAMILIES
    assert "my_package" not in sys.modules
    assert families.FAMILIES["my_llava"].id == "my_llava" and "my_package" in sys.modules
    assert list(families.FAMILIES)[-1] == "my_llava" and len(families.FAMILIES) == 12
    assert catalog.find("me/my-llava").label == "Mine" and catalog.CATALOG[-1].id == "me/my-llava"
    config = {"model_type": "my_llava", "vision_feature_layer": -2, "text_config": {"num_hidden_layers": 6},
              "vision_config": {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14,
                                "num_hidden_layers": 4}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    planned = checkpoint.planning_before_loading(str(tmp_path))
    assert (planned.family, planned.n_visual, planned.n_layers, planned.n_vision_layers) == ("my_llava", 4, 6, 3)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("broken_package:Mine", "RuntimeError: half installed"),
        ("no_such_package:Mine", "ModuleNotFoundError"),
        ("my_package:Nothing", "AttributeError"),
        ("my_package:Misnamed", "no ModelFamily with the id 'my_llava'"),
        ("my_package:CatalogEntry", "TypeError"),
        ("my_package:PACKAGE", "AttributeError"),
    ],
)
def test_a_broken_one_is_named_once_and_skipped(registered, value, why, recwarn):
    registered(my_llava=value)
    assert "my_llava" not in families.FAMILIES and len(list(families.FAMILIES.values())) == 11
    assert len(catalog.CATALOG) == len(catalog.PUBLISHED)
    (warning,) = [w for w in recwarn if issubclass(w.category, RuntimeWarning)]
    assert "'my_llava' of" in str(warning.message) and "is skipped" in str(warning.message)
    assert why in str(warning.message)


def test_nobody_takes_the_place_of_a_family_of_ours(registered):
    registered(llava="my_package:Mine")
    assert type(families.FAMILIES["llava"]).__module__ == "tokviz.models.llava" and len(families.FAMILIES) == 11
    assert "my_package" not in sys.modules
