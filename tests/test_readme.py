"""What the README shows must work."""

import json
import re
from pathlib import Path

from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from tests.support.recipes import load_text

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL).group(1)


def test_its_recipe_is_valid_and_its_rows_are_read(tmp_path):
    recipe = load_text(tmp_path, _block("yaml"))
    rows = _block("json")
    (tmp_path / recipe.data.source.path).write_text(rows, encoding="utf-8")
    data = SOURCES[recipe.data.source.type](recipe.data.source, ReadContext(tmp_path))
    assert [record.preference_group for record in data.train] == ["students", "gourmets"]
    assert data.train[0].columns["budget"] == json.loads(rows.splitlines()[0])["budget"]
    assert not data.rejected


def test_it_names_every_recipe_and_every_link_leads_somewhere():
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert f"`recipes/{path.name}`" in README
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) >= 5
    assert all((ROOT / link).is_file() for link in links)
