"""What `pgrpo prepare` tells about rows that it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pgrpo_cli.data.prepared import load_prepared
from tests.support.tastes import give, tastes
from tests.support.training import ROWS, files_in, pgrpo, write_tiny


def test_a_broken_line_is_named_and_loses_no_other(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    rows = tmp_path / "rows.jsonl"
    lines = rows.read_text(encoding="utf-8").splitlines()
    lines.insert(2, '{"prompt": "cut in the mi')
    lines.insert(9, '{"preference_group": "often"}')
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (0, "")
    told = result.stderr.splitlines()
    assert "rejected: 1 x not JSON" in told
    assert "  rows.jsonl:3: not JSON" in told
    assert "  rows.jsonl:10: no prompt" in told
    prompts = [prompt for split in ("train", "eval") for prompt in load_prepared(tmp_path / "run", split)]
    assert len(prompts) == sum(ROWS.values())
    kept = (tmp_path / "run" / "data" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in kept] == [3, 10]
    path = tmp_path / "run" / "data" / "rejected.jsonl"
    assert f"all rows that are not used, with their reasons: {path}" in told


def test_of_many_rejected_rows_the_first_few_are_named(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write("{\n" * 9)
    passed = ("--set", "data.max_rejected_share=0.5")
    told = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run", *passed).stderr
    # 32 good rows come before them.
    assert [f"rows.jsonl:{line}:" in told for line in range(33, 42)] == [True] * 5 + [False] * 4
    assert "rejected: 9 x not JSON" in told


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_too_many_broken_rows_stop_it_with_reasons_also_if_quiet(tmp_path: Path, command: str) -> None:
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    assert pgrpo("prepare", recipe, "--run-dir", run).exit_code == 0
    before = files_in(run / "data")
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"prompt": "cut\n' * 2 + '{"preference_group": "often"}\n')
    result = pgrpo(command, recipe, "--run-dir", run, "--quiet")
    assert (result.exit_code, result.stdout) == (2, "")
    # The 32 rows that were there, and 3 more.
    assert result.stderr.splitlines() == [
        "error: all files: 3 of 35 rows are broken (8.6%), more than data.max_rejected_share (0.05); "
        "up to 2 are always passed over",
        "  2 x not JSON; 1 x no prompt",
        "  rows.jsonl:33: not JSON (Unterminated string starting at at column 12)",
        "  rows.jsonl:35: no prompt (neither 'prompt' nor 'messages' has a value)",
        "  rows.jsonl:34: not JSON (Unterminated string starting at at column 12)",
        "  Correct the rows or what the recipe says of them, or raise data.max_rejected_share to train "
        "without them.",
        f"  All rejected rows: {run / 'rejected.jsonl'}",
    ]
    assert files_in(run / "data") == before
    kept = (run / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in kept] == [33, 34, 35]

    passed = ("--set", "data.max_rejected_share=0.1")
    assert pgrpo("prepare", recipe, "--run-dir", tmp_path / "other", *passed).exit_code == 0
    assert len((tmp_path / "other" / "data" / "rejected.jsonl").read_text().splitlines()) == 3


def test_a_preference_group_that_an_encoding_costs_stops_it_with_the_setting(tmp_path: Path) -> None:
    # 4 of 104 rows are 3.8 %, and all of one preference group.
    rows = [{"prompt": f"why {n}", "preference_group": "en"} for n in range(100)]
    rows += [{"prompt": f"où {n}", "preference_group": "fr"} for n in range(4)]
    text = "prompt,preference_group\n" + "".join(
        f"{row['prompt']},{row['preference_group']}\n" for row in rows
    )
    source = {"type": "csv", "path": "rows.csv"}
    recipe = write_tiny(tmp_path, data={"source": source})
    (tmp_path / "rows.csv").write_bytes(text.encode("cp1252"))
    result = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run", "--quiet")
    assert result.exit_code == 2
    assert "preference group 'fr': 4 of 4 rows are broken (100.0%), more than 4 times" in result.stderr
    assert "rows.csv:102: not UTF-8 (byte 0xf9 at character 2; save the file as UTF-8, or" in result.stderr
    assert "set data.source.encoding to the file's, perhaps 'cp1252'" in result.stderr
    said = ("--set", "data.source.encoding=cp1252")
    result = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run", *said)
    assert result.exit_code == 0
    assert "rejected" not in result.stderr


def test_how_a_file_was_read_is_told(tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path)
    path = tmp_path / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text(json.dumps(rows), encoding="utf-16")
    told = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run").stderr.splitlines()
    assert "rows.jsonl is read as UTF-16, as its byte order mark says." in told
    assert "rows.jsonl is an array or indented JSON, no JSON lines: each of its objects is a row." in told
    assert len(load_prepared(tmp_path / "run", "train")) == sum(ROWS.values()) - 4


@pytest.mark.parametrize("broken", ['{"prompt": "cut', '"a, ', "[1]"])
def test_one_bad_row_of_33_is_passed_over(tmp_path: Path, broken: str) -> None:
    recipe = write_tiny(tmp_path)
    with (tmp_path / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(broken + "\n")
    assert pgrpo("prepare", recipe, "--run-dir", tmp_path / "run", "--quiet").exit_code == 0
    (row,) = (tmp_path / "run" / "data" / "rejected.jsonl").read_text().splitlines()
    assert json.loads(row)["line"] == 33


def test_what_a_stop_left_behind_goes_with_the_next_preparing(tmp_path: Path) -> None:
    recipe, run = write_tiny(tmp_path), tmp_path / "run"
    rows = tmp_path / "rows.jsonl"
    good = rows.read_text(encoding="utf-8")
    rows.write_text(good + "{\n" * 9, encoding="utf-8")
    assert pgrpo("prepare", recipe, "--run-dir", run).exit_code == 2
    assert (run / "rejected.jsonl").exists()
    assert not (run / "data").exists()
    rows.write_text(good, encoding="utf-8")
    assert pgrpo("prepare", recipe, "--run-dir", run).exit_code == 0
    assert not (run / "rejected.jsonl").exists()


def test_the_report_says_what_a_user_should_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = write_tiny(tmp_path)
    rows = tmp_path / "rows.jsonl"
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    rows.write_text("".join(json.dumps({**line, "reference": "ab cd"}) + "\n" for line in lines))
    monkeypatch.setenv("COLUMNS", "100")
    told = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run").stderr.splitlines()
    assert told[0].split() == [
        "preference", "group", "train", "share", "held", "out", "tokens:", "mean", "95", "%", "max",
        "reference", "reward",
    ]  # fmt: skip
    # Of 20 rows 2 are held out, of 8 and of 4 one; every reference has 5 characters: reward 1.
    assert told[1].split()[:4] == ["often", "18", "64.3%", "2"]
    assert told[1].split()[-3:] == ["1.00", "±", "0.00"]
    assert "Length of prompts, in tokens (data.max_prompt_tokens: 1024)" in told
    assert any("█" in line for line in told)
    assert any(line.startswith("warning: every reference answer gets the reward 1") for line in told)
    assert told[-2] == f"{tmp_path / 'run' / 'data'}: 28 training prompts, 4 held out"
    assert all(len(line) <= 100 for line in told if not line.startswith(("warning", "Next", str(tmp_path))))


def test_clusters_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, tastes())
    groups = {"type": "cluster", "n_init": 2, "counts": [2, 3]}
    data = {"source": {"type": "jsonl", "path": "rows.jsonl"}, "preference_groups": groups}
    recipe = write_tiny(tmp_path, data=data)
    told = pgrpo("prepare", recipe, "--run-dir", tmp_path / "run").stderr
    assert "Clusters: 30 users in 2, by their profile" in told
    assert "the clusters are better than chance" in told
    assert "(18 users) stands out by: " in told
    assert "users" in told.splitlines()[0]


def test_of_many_groups_the_largest_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, tastes())
    data = {"source": {"type": "jsonl", "path": "rows.jsonl"}, "preference_groups": {"type": "user"}}
    told = pgrpo("prepare", write_tiny(tmp_path, data=data), "--run-dir", tmp_path / "run").stderr
    # 30 users with 5 prompts each, of which one is held out.
    assert "and 10 smaller preference groups with 40 training prompts in all" in told


def ambiguous(folder: Path) -> Path:
    """A recipe of two preference groups that ask the same and are rewarded otherwise."""
    recipe = write_tiny(folder, rewards=[{"type": "length", "max": 6, "preference_groups": ["a"]}])
    rows = [{"prompt": f"question {i}", "preference_group": group} for i in range(20) for group in "ab"]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return recipe


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_prompts_that_do_not_tell_who_asks_are_refused(tmp_path: Path, command: str) -> None:
    result = pgrpo(command, ambiguous(tmp_path), "--run-dir", tmp_path / "run")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: the model cannot tell who asks: 40 of 40 prompts (100%) read the same" in result.stderr
    assert "--force" in result.stderr and not (tmp_path / "run" / "data").exists()


def test_force_prepares_and_trains_on_them_and_json_has_the_numbers(tmp_path: Path) -> None:
    recipe, run = ambiguous(tmp_path), tmp_path / "run"
    result = pgrpo("prepare", recipe, "--run-dir", run, "--force", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["conditioning"]["ambiguous_share"] == 1
    # Two words of either group say the same, so that half of the held-out prompts are named right.
    assert (found["conditioning"]["classifier_accuracy"], found["conditioning"]["chance"]) == (0.5, 0.5)
    assert (found["train_prompts"], found["eval_prompts"]) == (36, 4)
    assert found["preference_groups"]["a"]["train_prompts"] == 18
    assert "warning: 40 of 40 prompts" in result.stderr
    trained = pgrpo("train", recipe, "--run-dir", run, "--force", "--set", "train.steps=1")
    assert trained.exit_code == 0, trained.stderr
    # What is suggested next is forced, too.
    assert "--force" in pgrpo("prepare", recipe, "--run-dir", tmp_path / "two", "--force").stderr
