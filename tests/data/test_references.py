import math
from dataclasses import replace
from typing import get_args

import pytest
from pydantic import TypeAdapter

from pgrpo_cli.data.references import MAX_SCORED, reference_rewards, require_scorable
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.rewards import Reward
from tests.support.records import prompt, record

WORDS = {"type": "length", "max": 2, "slack": 4}
PLUGIN = {"type": "plugin", "plugin": "judge"}
SECTION = TypeAdapter(Reward)


def rewards(prompts, *sections, folder="."):
    return reference_rewards(prompts, [SECTION.validate_python(section) for section in sections], folder)


def refusal(rows, *sections):
    """What is said of the rows, all of one file and in its order; None if they can be scored."""
    prompts = {"train": [prompt(str(n), group, **columns) for n, (group, columns) in enumerate(rows)]}
    records = {
        "train": [replace(record("x"), file="f.jsonl", line=n) for n, _ in enumerate(prompts["train"], 1)]
    }
    try:
        require_scorable(prompts, records, [SECTION.validate_python(section) for section in sections])
    except DataError as error:
        return f"{error.message} {error.remedy}"
    return None


RATED = {"type": "rouge", "reference_column": "answer", "rating_column": "stars"}
EMBEDDING = {"type": "embedding", "model": "none/such", "reference_column": "answer"}
FILMS = {"type": "recommendation", "candidates_column": "films"}
JUDGE = {
    "type": "judge",
    "model": "m",
    "base_url": "http://localhost:1/v1",
    "rubric": "{{ columns.stars + 1 }} {{ completion }}",
}
GOOD = {"answer": "Tea.", "stars": True, "target": "Heat", "films": ["Heat"]}


@pytest.mark.parametrize(
    ("section", "columns", "said"),
    [
        (RATED, {"answer": None}, "reward 'rouge': column 'answer' is null in this row"),
        (RATED, {"stars": None}, "column 'stars' is null in this row"),
        (RATED, {"stars": 4}, "column 'stars' is 4, no rating from 0 to 1"),
        ({"type": "rouge"}, {"reference": None}, "column 'reference' is null in this row"),
        (EMBEDDING, {"answer": " "}, "column 'answer' is ' ', no text"),
        (FILMS, {"target": "?"}, "'?' in column 'target' cannot be looked for"),
        (JUDGE, {"stars": None}, "the rubric cannot be written for prompt"),
        (FILMS, {"films": "Heat, Alien"}, "column 'films' is the text 'Heat, Alien'"),
    ],
)
def test_a_row_that_a_reward_cannot_score_is_found_wherever_it_stands(section, columns, said):
    good = ("a", {"reference": "Tea.", **GOOD})
    rows = [good] * MAX_SCORED + [good, ("a", {**good[1], **columns}), ("b", {**good[1], **columns})]
    assert refusal([good], section) is None
    found = refusal(rows, section)
    assert found.startswith(
        f"2 of {len(rows)} prompts cannot be rewarded, the first: f.jsonl:{len(rows) - 1}: "
    )
    assert said in found
    # It is the business of the preference groups that the reward is for.
    assert refusal(rows[:-1], {**section, "preference_groups": ["b"]}) is None


def test_rows_are_not_refused_for_what_no_reward_reads_and_for_what_gives_no_signal():
    assert refusal([("a", {"answer": None})], WORDS, PLUGIN) is None
    # A reference without a word is no reward, and training goes on.
    assert refusal([("a", {"answer": "...", "stars": 0})], RATED) is None


def test_each_groups_reference_answers_are_scored():
    prompts = [
        prompt("1", "a", reference="one two"),  # 1
        prompt("2", "a", reference="one two three four"),  # 1 - 2 / 4
        prompt("3", "b", reference="one two three"),  # 1 - 1 / 4
        prompt("4", "b"),
        prompt("5", "b", reference=" "),
        prompt("6", "b", reference=3),
    ]
    found = rewards(prompts, WORDS, {**PLUGIN, "name": "judge"})
    mean, deviation = found.by_group["a"]
    assert (mean, deviation) == (0.75, pytest.approx(math.sqrt(2 * 0.25**2)))
    assert found.by_group["b"] == (0.75, None)
    assert (found.scored, found.left_out, found.problem) == (("length",), ("judge",), None)


def test_rewards_are_summed_by_weight():
    sections = [{**WORDS, "weight": 2}, {"type": "regex", "pattern": "two", "weight": -1}]
    assert rewards([prompt("1", reference="one two")], *sections).by_group["a"] == (1.0, None)


def test_readability_and_recommendations_are_scored():
    sections = [
        {"type": "readability", "max": -1},
        {"type": "recommendation", "hit_weight": 1, "rank_weight": 0, "weight": 2},
    ]
    row = {"reference": "See Heat now.", "target": "Heat"}
    found = rewards([prompt("1", **row), prompt("2", "b", **{**row, "target": "Ronin"})], *sections)
    # Grade 0.39 * 3 + 11.8 - 15.59 = -2.62. A hit in one group, none in the other.
    assert found.by_group == {"a": (3.0, None), "b": (1.0, None)}
    assert (found.scored, found.left_out) == (("readability", "recommendation"), ())


@pytest.mark.parametrize(
    "section", [{"type": "rouge"}, {"type": "chrf"}, {"type": "embedding", "model": "m"}]
)
def test_the_likeness_of_a_reference_to_itself_is_left_out(section):
    found = rewards([prompt("1", reference="one two three")], WORDS, section)
    assert found.by_group["a"] == (0.75, None)
    assert (found.scored, found.left_out) == (("length",), (section["type"],))


def test_nothing_is_scored_without_references_or_without_a_cheap_reward(tmp_path):
    assert rewards([prompt("1")], WORDS) is None
    assert rewards([prompt("1", reference="x")], PLUGIN) is None
    code = {"type": "python", "file": "rewards.py"}
    (tmp_path / "rewards.py").write_text("raise SystemExit")
    assert rewards([prompt("1", reference="x")], code, folder=tmp_path) is None


def test_a_reward_that_fails_is_a_problem_and_no_crash():
    found = rewards([prompt("1", "nobody", reference="x")], {"type": "personas"})
    assert found.by_group == {}
    assert "which is none of its personas" in found.problem


def test_only_so_many_answers_of_a_group_are_scored():
    prompts = [prompt(str(n), reference="one two") for n in range(MAX_SCORED)]
    prompts += [prompt("late", reference="one two three"), prompt("other", "b", reference="one two three")]
    found = rewards(prompts, WORDS)
    assert found.by_group["a"] == (1.0, 0.0)
    assert found.by_group["b"] == (0.75, None)


def test_what_is_not_cheap():
    """Models, services, extras and code of others, and the likeness of a reference to itself."""
    sections = {section.model_fields["type"].default: section for section in get_args(get_args(Reward)[0])}
    dear = {"judge", "python", "plugin", "reward_model", "embedding", "rouge", "chrf", "sentiment"}
    assert not any(sections[name].cheap for name in dear)
    assert sections["length"].cheap
