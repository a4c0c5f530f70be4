"""What `data.conditioning` makes of prompts, from rows to prepared data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.data.prepared import load_prepared, read_manifest
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import DataError
from tests.support.conditioned import prepared, write


def messages(run_dir: Path, half: str = "train") -> dict[str, PreparedPrompt]:
    return {prompt.messages[-1]["content"]: prompt for prompt in load_prepared(run_dir, half)}


def system_of(prompt: PreparedPrompt) -> str | None:
    first = prompt.messages[0]
    return first["content"] if first["role"] == "system" else None


ROWS = [
    {"prompt": f"{group} {i}", "preference_group": group, "town": town}
    for group, town in (("a", "Rome"), ("b", "Oslo"))
    for i in range(20)
]


def test_a_profile_stands_in_the_system_message_behind_the_system_prompt(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    profiles = {"a": "likes few words", "b": "likes many"}
    prepared(tmp_path, {"type": "profiles", "profiles": profiles}, system_prompt="Be kind.")
    for prompt in messages(tmp_path / "run").values():
        text = f"Be kind.\n\nAbout the user: {profiles[prompt.preference_group]}"
        assert system_of(prompt) == text and text in prompt.prompt
    assert read_manifest(tmp_path / "run")["profiles"] == profiles


def test_without_a_system_prompt_the_profile_stands_alone(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    prepared(tmp_path, {"type": "profiles", "profiles": "auto"})
    assert system_of(messages(tmp_path / "run", "eval").popitem()[1]) == "About the user: b"


@pytest.mark.parametrize("kind", ["prompt", "profiles"])
def test_templates_know_the_row_and_who_asks(tmp_path: Path, kind: str) -> None:
    row = {"prompt": "q", "who": "x", "user_id": "column", "a b": 1, "profile": "column"}
    write(tmp_path, [{**row, "prompt": f"q{i}"} for i in range(4)])
    template = (
        "{{ who }}|{{ user_id }}|{{ preference_group }}|{{ row['a b'] }}|{{ profile }}|{{ system_prompt }}"
    )
    profiles = {"profiles": {"x": "known"}} if kind == "profiles" else {}
    prepared(
        tmp_path,
        {"type": kind, "template": template, **profiles},
        source={"user_column": "who", "preference_group_column": "who"},
    )
    told = system_of(messages(tmp_path / "run").popitem()[1])
    # The user is known, and comes before a column of that name; there is no system prompt.
    assert told == f"x|x|x|1|{'known' if profiles else 'column'}|"


def test_a_rows_own_system_message_is_the_system_prompt_of_its_template(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Own."}]
    rows = [
        {"messages": [*(own if i % 2 else ()), {"role": "user", "content": f"q{i}"}], "preference_group": "a"}
        for i in range(8)
    ]
    write(tmp_path, rows)
    prepared(
        tmp_path, {"type": "prompt", "template": "{{ system_prompt }} Be brief."}, system_prompt="Recipe's."
    )
    found = messages(tmp_path / "run")
    assert {(int(q[1:]) % 2, system_of(p)) for q, p in found.items()} == {
        (0, "Recipe's. Be brief."),
        (1, "Own. Be brief."),
    }
    # A blank text is no system message; the recipe's is added then, as to every prompt without one.
    prepared(tmp_path, {"type": "prompt", "template": "{{ '' }}"}, system_prompt="Recipe's.")
    assert {system_of(prompt) for prompt in messages(tmp_path / "run").values()} == {"Recipe's."}


def test_what_is_added_counts_in_lengths_and_in_the_datas_hash(tmp_path: Path) -> None:
    write(tmp_path, ROWS)
    plain = prepared(tmp_path, {"type": "prompt"})
    told = prepared(tmp_path, {"type": "prompt", "template": "From {{ town }}."})
    # "<s>system\nFrom Rome.<e>\n": 8 + 10 + 2 tokens.
    assert told.groups[0].tokens_max == plain.groups[0].tokens_max + 20
    assert told.data_hash != plain.data_hash
    with pytest.raises(DataError, match=r"'a' has no training prompt; 20 of .*\n  20 x longer than data"):
        profiles = {"a": "x" * 40, "b": "y"}
        prepared(tmp_path, {"type": "profiles", "profiles": profiles}, max_prompt_tokens=60)


def test_a_row_that_the_template_fails_for_is_rejected(tmp_path: Path) -> None:
    write(tmp_path, [*ROWS, {"prompt": "q", "preference_group": "a"}])
    report = prepared(tmp_path, {"type": "prompt", "template": "From {{ town }}."})
    assert report.rejected == {"data.conditioning.template cannot render it": 1}


def test_clusters_describe_themselves(tmp_path: Path) -> None:
    words = {"a": "guitar amplifier", "b": "needle thread"}
    rows = [{"prompt": f"{words[kind]} {i}", "user": f"{kind}{i % 6}"} for kind in words for i in range(36)]
    write(tmp_path, rows)
    prepared(
        tmp_path,
        {"type": "profiles", "profiles": "auto"},
        source={"user_column": "user"},
        preference_groups={"type": "cluster", "features": "tfidf", "count": 2},
    )
    told = {p.messages[-1]["content"].split()[0]: system_of(p) for p in messages(tmp_path / "run").values()}
    assert set(told) == {"guitar", "needle"}
    assert all(word in (told[word] or "") and "often writes of" in (told[word] or "") for word in told)


def test_users_whom_training_never_saw_are_told_by_their_other_rows(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{user} {i}", "preference_group": user[0], "user": user, "answer": f"{user}!", "n": i}
        for user in ("a1", "a2", "a3", "b1", "b2", "b3")
        for i in range(5)
    ]
    for row in rows:
        row["answer"] += str(row.pop("n"))
    write(tmp_path, rows)
    prepared(
        tmp_path,
        {"type": "examples", "answer_column": "answer", "count": 2},
        source={"user_column": "user"},
        split_by="user",
        eval_fraction=0.3,
    )
    halves = {half: load_prepared(tmp_path / "run", half) for half in ("train", "eval")}
    users = {half: {prompt.user_id for prompt in prompts} for half, prompts in halves.items()}
    assert users["eval"] and not users["train"] & users["eval"]
    for prompt in (*halves["train"], *halves["eval"]):
        assert len(prompt.messages) == 5
        assert all(
            m["content"].startswith(f"{prompt.user_id}!") for m in prompt.messages if m["role"] == "assistant"
        )


@pytest.mark.parametrize(
    ("conditioning", "error", "said"),
    [
        ({"type": "profiles", "profiles": {"a": "x"}}, DataError, "no profile of preference group 'b'"),
        ({"type": "examples", "answer_column": "town"}, DataError, "goes by users"),
    ],
)
def test_what_cannot_be_done_is_an_error(
    tmp_path: Path, conditioning: dict[str, Any], error: type[Exception], said: str
) -> None:
    write(tmp_path, ROWS)
    with pytest.raises(error, match=said):
        prepared(tmp_path, conditioning)
