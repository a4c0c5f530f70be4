"""What the README shows must work."""

import json
import re
from pathlib import Path

import pytest

from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.conditioning import PromptConditioning
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.verbs.prepare import prepare_data
from tests.support.recipes import load_text
from tests.support.tokenizer import byte_tokenizer
from tests.support.training import TINY, write_tiny

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(language, containing=""):
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return next(block for block in blocks if containing in block)


def test_its_recipe_is_valid_and_its_rows_are_read(tmp_path):
    recipe = load_text(tmp_path, _block("yaml"))
    rows = _block("json")
    (tmp_path / recipe.data.source.path).write_text(rows, encoding="utf-8")
    data = SOURCES[recipe.data.source.type](recipe.data.source, ReadContext(tmp_path))
    assert [record.preference_group for record in data.train] == ["students", "gourmets"]
    assert data.train[0].columns["budget"] == json.loads(rows.splitlines()[0])["budget"]
    assert not data.rejected


DINNERS = [
    {"prompt": f"What should I cook on day {day}?", "preference_group": group, "budget": budget}
    for day in range(20)
    for group, budget in (("students", 5), ("gourmets", 60))
]


def test_its_groups_ask_the_same_and_are_told_apart_by_their_profiles(tmp_path):
    recipe = load_text(tmp_path, _block("yaml"))
    (tmp_path / "dinner.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DINNERS))
    report = prepare_data(recipe, tmp_path / "run", tmp_path, byte_tokenizer())
    assert report.told_apart.as_json() == {
        "ambiguous_share": 0.0,
        "classifier_accuracy": 1.0,
        "chance": 0.5,
    }
    prompts = load_prepared(tmp_path / "run", "eval")
    assert {
        prompt.preference_group: re.search(r"About the user: (\w+ \w+ \w+)", prompt.prompt)[1]
        for prompt in prompts
    } == {"students": "a student with", "gourmets": "a gourmet who"}


def test_its_reward_compares_the_numbers_of_an_answer_with_the_budget():
    found = {}
    exec(_block("python", containing="budget"), found)
    # "12 eggs" is above 5 and below 60; no number at all is within any budget.
    texts, budget = ["Soup.", "Fry 12 eggs.", "Fry 12 eggs."], [5, 5, 60]
    assert found["reward"](["?"] * 3, texts, budget, prompt_id=["a", "b", "c"]) == [1.0, 0.0, 1.0]


def test_without_profiles_they_are_refused(tmp_path):
    recipe = load_text(tmp_path, _block("yaml"))
    data = recipe.data.model_copy(update={"conditioning": PromptConditioning()})
    recipe = recipe.model_copy(update={"data": data})
    (tmp_path / "dinner.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DINNERS))
    with pytest.raises(DataError) as refused:
        prepare_data(recipe, tmp_path / "run", tmp_path, byte_tokenizer())
    text = str(refused.value)
    assert text.startswith("the model cannot tell who asks: 40 of 40 prompts (100%) read the same")
    assert text.count("\n  'gourmets' and 'students' both ask: What should I cook on day") == 2
    assert "`conditioning: {type: profiles, profiles: auto}`" in text and "--force" in text
    report = prepare_data(recipe, tmp_path / "run", tmp_path, byte_tokenizer(), force=True)
    assert report.told_apart.ambiguous_share == 1


def test_it_names_every_recipe_and_every_link_leads_somewhere():
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert f"`recipes/{path.name}`" in README
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert len(links) >= 5
    assert all((ROOT / link).is_file() for link in links)


def test_its_lines_for_a_notebook_run(tmp_path, monkeypatch, capsys):
    train = {**TINY["train"], "steps": 2}
    recipe = write_tiny(tmp_path, name="dinner", train=train, eval={"num_completions": 2})
    recipe.rename(tmp_path / "dinner.yaml")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(_block("python", containing="from pgrpo_cli import"), found)
    assert found["run"].path == Path("runs/dinner") and found["grpo"].path == Path("runs/grpo")
    assert RunDirectory(Path("runs/grpo")).recipe().advantage.estimator == "grpo"
    gain, pairs = capsys.readouterr().out.splitlines()
    assert re.match(r"mean=\S+ ci_low=\S+ ci_high=\S+ n=\d+$", gain)
    assert "PairedDifference" in pairs or "run='dinner'" in pairs
    assert Path("runs/dinner/report.html").is_file() and Path("runs/dinner/compare.html").is_file()
