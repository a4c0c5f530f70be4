"""What stands before a question: of a group, a user, a described person, nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.data.conditioning import presets
from pgrpo_cli.data.conditioning.presets import (
    Preset,
    group_preset,
    group_presets,
    plain_preset,
    preference_groups_of,
    profile_preset,
    user_preset,
)
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import DataError
from tests.support.conditioned import prepared, recipe, write

SYSTEM = {"role": "system", "content": "Be kind."}


def rows(**more: Any) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"I am {user}."},
                {"role": "assistant", "content": "Hello!"},
                {"role": "user", "content": f"{user} {i}"},
            ],
            "preference_group": user[0],
            "user": user,
            **more,
        }
        for user in ("a1", "a2", "b1")
        for i in range(6)
    ]


def test_a_group_of_telling_prompts_lends_the_context_of_a_held_out_one(tmp_path: Path) -> None:
    write(tmp_path, rows())
    prepared(tmp_path, source={"user_column": "user"}, system_prompt="Be kind.")
    made = recipe(source={"user_column": "user"}, system_prompt="Be kind.")
    held_out = next(p for p in load_prepared(tmp_path / "run", "eval") if p.preference_group == "a")
    preset = group_preset(tmp_path / "run", made, "a")
    assert preset == Preset("a", held_out.messages[:-1], f"prompt {held_out.prompt_id}", held_out.user_id)
    assert [m["role"] for m in preset.messages] == ["system", "user", "assistant"]
    assert preset.recorded == preset.messages
    assert user_preset(tmp_path / "run", made, "a2").messages[1]["content"] == "I am a2."
    assert preference_groups_of(tmp_path / "run") == ["a", "b"]


def test_profiles_lend_the_system_message_alone(tmp_path: Path) -> None:
    write(tmp_path, rows())
    section = {"type": "profiles", "profiles": {"a": "likes few words", "b": "likes many"}}
    prepared(tmp_path, section, system_prompt="Be kind.", source={"user_column": "user"})
    made = recipe(section, system_prompt="Be kind.")
    preset = group_preset(tmp_path / "run", made, "b")
    text = "Be kind.\n\nAbout the user: likes many"
    assert preset.messages == ({"role": "system", "content": text},)
    assert (preset.preference_group, preset.origin) == ("b", "profile")
    assert preset.recorded == (SYSTEM,)
    assert user_preset(tmp_path / "run", made, "a1").messages[0]["content"].endswith("few words")


@pytest.mark.parametrize(("column", "recorded"), [("preference_group", "Be kind."), ("user", "Be kind. a")])
def test_what_only_a_row_says_of_a_template_is_recorded(tmp_path: Path, column: str, recorded: str) -> None:
    write(tmp_path, [{**row, "user": "a"} for row in rows()])
    section = {"type": "prompt", "template": f"{{{{ system_prompt }}}} {{{{ {column} }}}}"}
    prepared(tmp_path, section, system_prompt="Be kind.")
    preset = group_preset(tmp_path / "run", recipe(section, system_prompt="Be kind."), "a")
    system, *turns = preset.messages
    assert system["content"] == "Be kind. a"
    assert preset.recorded == ({**system, "content": recorded}, *turns)


def test_examples_lend_the_turns_before_the_question_with_the_most_of_them(tmp_path: Path) -> None:
    section = {"type": "examples", "answer_column": "answer", "count": 2}
    told = [
        {"prompt": f"{user} {i}", "preference_group": user[0], "user": user, "answer": f"{user}: {i}", "t": i}
        for user in ("a1", "b1")
        for i in range(10)
    ]
    write(tmp_path, told)
    source = {"user_column": "user", "time_column": "t"}
    prepared(tmp_path, section, source=source, split_by="text", eval_fraction=0.4)
    preset = group_preset(tmp_path / "run", recipe(section, source=source), "b")
    assert (preset.user_id, preset.origin) == ("b1", "examples of user b1")
    # Two examples, each a question and an answer; the answer is the last word.
    assert [m["role"] for m in preset.messages] == ["user", "assistant"] * 2
    assert preset.recorded == ()
    assert all(m["content"].startswith("b1: ") for m in preset.messages[1::2])
    assert user_preset(tmp_path / "run", recipe(section), "a1").origin == "examples of user a1"


@pytest.mark.parametrize("kind", ["prompt", "examples"])
def test_those_of_several_groups_are_read_at_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"type": "examples", "answer_column": "answer", "count": 2} if kind == "examples" else None
    write(tmp_path, rows(answer="Well."))
    prepared(tmp_path, section, source={"user_column": "user"}, split_by="user")
    made = recipe(section, source={"user_column": "user"})
    reads: list[str] = []

    def load(run: Path, half: str) -> list[PreparedPrompt]:
        reads.append(half)
        return load_prepared(run, half)

    monkeypatch.setattr(presets, "load_prepared", load)
    found = group_presets(tmp_path / "run", made, ["b", "a"])
    assert reads == ["eval", "train"]
    monkeypatch.undo()
    assert found == [group_preset(tmp_path / "run", made, group) for group in ("b", "a")]
    assert [preset.preference_group for preset in found] == ["b", "a"]


def test_a_described_person_needs_no_data() -> None:
    made = recipe(
        {"type": "profiles", "profiles": "auto", "template": "{{ system_prompt }} For: {{ profile }}."},
        system_prompt="Be kind.",
    )
    expected = {"role": "system", "content": "Be kind. For: night owls."}
    assert profile_preset(made, "night owls").messages == (expected,)
    # Where the recipe has no profiles, its default template says it.
    assert profile_preset(recipe(), "night owls") == Preset(
        None, ({"role": "system", "content": "About the user: night owls"},), "profile"
    )
    by_row = recipe({"type": "profiles", "profiles": "auto", "template": "{{ town }} {{ profile }}"})
    with pytest.raises(DataError, match=r"needs more than a profile: .*town"):
        profile_preset(by_row, "night owls")


def test_nobody_gets_the_system_prompt() -> None:
    assert plain_preset(recipe(system_prompt="Be kind.").model).messages == (SYSTEM,)
    assert plain_preset(recipe().model) == Preset(None, (), "system prompt")


@pytest.mark.parametrize("system_prompt", [" Be kind.\n", "", None])
def test_who_is_told_nothing_gets_the_system_prompt_as_training_writes_it(
    system_prompt: str | None, tmp_path: Path
) -> None:
    # Of group `b` the template says nothing.
    section = {"type": "profiles", "profiles": "auto", "template": "{% if profile == 'a' %}A.{% endif %}"}
    write(tmp_path, [{"prompt": f"{i}", "preference_group": "ab"[i % 2]} for i in range(20)])
    prepared(tmp_path, section, system_prompt=system_prompt)
    made = recipe(section, system_prompt=system_prompt)
    trained = next(p for p in load_prepared(tmp_path / "run", "train") if p.preference_group == "b")
    due = () if system_prompt is None else ({"role": "system", "content": system_prompt},)
    assert trained.messages[:-1] == due
    assert plain_preset(made.model).messages == due
    assert group_preset(tmp_path / "run", made, "b").messages == due
    assert profile_preset(made, "somebody").messages == due


def test_whom_the_data_do_not_know_is_told_near_names(tmp_path: Path) -> None:
    write(tmp_path, rows())
    prepared(tmp_path, source={"user_column": "user"})
    with pytest.raises(DataError, match="no preference group 'aa'; they have 'a', 'b'\n  Did you mean 'a'"):
        group_preset(tmp_path / "run", recipe(), "aa")
    with pytest.raises(DataError, match="no user 'zoe'; they have 'a1', 'a2', 'b1'\n  Name a user"):
        user_preset(tmp_path / "run", recipe(), "zoe")
    with pytest.raises(DataError, match="no prepared data"):
        preference_groups_of(tmp_path)
