from pathlib import Path

import pytest

from pgrpo_cli.data.preference_groups import ASSIGNERS, AssignContext, assign
from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.data import PluginGroups
from tests.support.records import source_record


@pytest.fixture
def packaging(tmp_path, monkeypatch):
    """An installed package, as importlib.metadata sees one, that registers functions of a module."""
    info = tmp_path / "initials-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: initials\nVersion: 1.0\n")
    (tmp_path / "initials_groups.py").write_text(
        "def initials(length=1):\n"
        "    return lambda record: record.columns['name'][:length]\n"
        "def odd():\n"
        "    return 3\n"
    )
    (info / "entry_points.txt").write_text(
        "[pgrpo.preference_groups]\ninitials = initials_groups:initials\nodd = initials_groups:odd\n"
        "gone = initials_groups:gone\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def build(plugin, **options):
    return ASSIGNERS["plugin"](
        PluginGroups(plugin=plugin, options=options), AssignContext(Path("."), allow_code=True)
    )


def test_an_entry_point_is_built_with_its_options_and_names_groups(packaging):
    records = [source_record("1", name="Ada"), source_record("2", name="Bo"), source_record("3")]
    grouped, rejected = assign(records, build("initials", length=2).fit(records).group_of)
    assert [record.preference_group for record in grouped] == ["Ad", "Bo"]
    assert [(row.reason, row.detail) for row in rejected] == [("the plug-in fails", "KeyError: 'name'")]


@pytest.mark.parametrize(
    ("plugin", "options", "words"),
    [
        ("initial", {}, "did you mean 'initials'"),
        ("initials", {"size": 1}, "building plug-in 'initials'"),
        ("gone", {}, "building plug-in 'gone'"),
        ("odd", {}, "made a int, which cannot be called"),
    ],
)
def test_what_cannot_be_built_is_explained(packaging, plugin, options, words):
    with pytest.raises(RecipeError, match=words):
        build(plugin, **options)
