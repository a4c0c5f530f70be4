"""Can the model tell who asks? Equal texts that are rewarded otherwise, and a classifier of texts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from pgrpo_cli.data.conditioning.told_apart import ToldApart, require_told_apart, told_apart
from pgrpo_cli.data.prepared import read_manifest
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.rewards import Reward, RewardBase
from tests.support.conditioned import prepared, write
from tests.support.records import prompt

PERSONAS = {"type": "personas"}
LENGTH = {"type": "length", "max": 5}
ROUGE = {"type": "rouge", "reference_column": "answer", "rating_column": "up"}


def rewards(*sections: dict[str, Any]) -> list[RewardBase]:
    return TypeAdapter(list[Reward]).validate_python(list(sections))


def asked(text: str, group: str, **columns: Any) -> PreparedPrompt:
    made = prompt(f"{text} of {group}", group, **columns)
    return replace(made, prompt=text, messages=({"role": "user", "content": text},))


def found(
    train: Iterable[PreparedPrompt], *sections: dict[str, Any], held_out: Sequence[PreparedPrompt] = ()
) -> ToldApart:
    return told_apart({"train": list(train), "eval": held_out}, rewards(*sections), 0)


SAME = [asked("Hi", "a", answer="x", n=1), asked("Hi", "b", answer="y", n=2), asked("Ho", "a", answer="x")]


@pytest.mark.parametrize(
    ("section", "ambiguous"),
    [
        (PERSONAS, 2),
        # A function of the user's and a judge may look at the group.
        ({"type": "python", "file": "f.py"}, 2),
        ({"type": "judge", "base_url": "http://localhost:1/v1", "model": "m"}, 2),
        # It reads the column `answer`, which differs, or the column `n`, which does, too.
        (ROUGE, 2),
        ({"type": "recommendation", "target_column": "n"}, 2),
        # The same reward for everybody, and no column that differs.
        (LENGTH, 0),
        ({"type": "rouge", "reference_column": "missing"}, 0),
        # Only one of the two has it, both have it, nobody has it.
        ({**LENGTH, "preference_groups": ["a"]}, 2),
        ({**LENGTH, "preference_groups": ["a", "b"]}, 0),
        ({**LENGTH, "preference_groups": ["c"]}, 0),
        # Neither the group nor a column matters to a reward that neither of the two has.
        ({**PERSONAS, "preference_groups": ["c"]}, 0),
        ({**ROUGE, "preference_groups": ["c"]}, 0),
        ({**ROUGE, "preference_groups": ["b"]}, 2),
        # What counts for nothing.
        ({**PERSONAS, "weight": 0}, 0),
    ],
)
def test_equal_texts_count_where_they_are_rewarded_otherwise(section: dict[str, Any], ambiguous: int) -> None:
    told = found(SAME, section)
    assert (told.ambiguous, told.prompts) == (ambiguous, 3)
    assert told.ambiguous_share == ambiguous / 3
    if ambiguous:
        (example,) = told.examples
        assert (example.question, example.preference_groups) == ("Hi", ("a", "b"))


def test_a_group_may_ask_the_same_twice_and_want_two_things() -> None:
    rows = [asked("Hi", "a", answer="x"), asked("Hi", "a", answer="y"), asked("Ho", "b", answer="y")]
    assert found(rows, ROUGE).ambiguous == 0


def test_of_three_groups_those_count_that_another_one_contradicts() -> None:
    rows = [asked("Hi", "a", answer="x"), asked("Hi", "b", answer="x"), asked("Hi", "c", answer="y")]
    assert found(rows, ROUGE).ambiguous == 3
    assert found(rows[:2], ROUGE).ambiguous == 0


def test_most_of_them_are_an_error_and_fewer_are_a_warning() -> None:
    half = ToldApart(4, 2)
    require_told_apart(half, force=False)
    assert half.warnings[0].startswith("2 of 4 prompts (50%) read the same in another preference group")
    with pytest.raises(DataError, match="cannot tell who asks: 3 of 5") as refused:
        require_told_apart(ToldApart(5, 3), force=False)
    assert refused.value.exit_code == 2
    require_told_apart(ToldApart(5, 3), force=True)


def named(group: str, count: int, start: int = 0) -> list[PreparedPrompt]:
    words = {"a": "guitar", "b": "needle", "c": "oven"}
    return [asked(f"{words[group]} {i}", group) for i in range(start, start + count)]


def test_a_classifier_names_groups_by_their_texts() -> None:
    told = found(
        [*named("a", 30), *named("b", 10)], PERSONAS, held_out=[*named("a", 6, 50), *named("b", 2, 50)]
    )
    # All of them, where naming `a` each time would be right for 6 of 8.
    assert (told.classifier_accuracy, told.chance, told.tried) == (1, 0.75, 8)
    assert told.warnings == ()


def test_texts_that_say_nothing_are_a_warning_where_rewards_differ() -> None:
    train = [asked(f"{'even' if i % 4 < 2 else 'odd'} {i}", "ab"[i % 2]) for i in range(80)]
    held_out = [asked(f"{'even' if i % 4 < 2 else 'odd'} {i}", "ab"[i % 2]) for i in range(100, 140)]
    told = found(train, PERSONAS, held_out=held_out)
    assert told.chance == 0.5
    assert told.classifier_accuracy is not None and 0.3 <= told.classifier_accuracy <= 0.65
    assert "perhaps nothing in the prompts tells the model who asks" in told.warnings[0]
    assert found(train, LENGTH, held_out=held_out).warnings == ()


def test_one_group_or_nothing_held_out_is_not_classified() -> None:
    assert found(named("a", 4), PERSONAS, held_out=named("a", 2)) == ToldApart(6, 0, differ=False)
    assert found([*named("a", 4), *named("b", 4)], PERSONAS).as_json() == {
        "ambiguous_share": 0,
        "classifier_accuracy": None,
        "chance": None,
    }


def test_much_data_cost_seconds() -> None:
    words = [f"word{i}" for i in range(997)]
    rows = [
        asked(" ".join(words[(i * 31 + j * j) % 997] for j in range(2000)) + f" {'ab'[i % 2]}", "ab"[i % 2])
        for i in range(1500)
    ]
    start = time.process_time()
    told = told_apart({"train": rows * 20, "eval": rows}, rewards(LENGTH), 0)
    assert told.tried == 500
    assert time.process_time() - start < 20


def test_the_report_and_the_manifest_say_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"prompt": f"{word} {i}", "preference_group": word}
            for word in ("guitar", "oven")
            for i in range(20)
        ],
    )
    report = prepared(tmp_path, rewards=[{**LENGTH, "preference_groups": ["oven"]}])
    assert report.told_apart is not None
    numbers = {"ambiguous_share": 0.0, "classifier_accuracy": 1.0, "chance": 0.5}
    assert report.told_apart.as_json() == read_manifest(tmp_path / "run")["conditioning"] == numbers  # type: ignore[index]


def test_some_equal_texts_are_warned_about_first(tmp_path: Path) -> None:
    rows = [{"prompt": f"{g} {i}", "preference_group": g} for g in ("guitar", "oven") for i in range(20)]
    rows += [{"prompt": "Any tip?", "preference_group": g} for g in ("guitar", "oven")]
    write(tmp_path, rows)
    report = prepared(tmp_path, rewards=[{**LENGTH, "preference_groups": ["oven"]}])
    assert report.warnings[0].startswith("2 of 42 prompts (5%) read the same")
    assert "'guitar' and 'oven' both ask: Any tip?" in report.warnings[0]
