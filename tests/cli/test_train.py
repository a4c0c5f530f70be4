"""`prepare`, `train` and `groups` as a person uses them: stopped, damaged, misused, gone on with."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from pgrpo_cli.cli.app import app
from pgrpo_cli.state.history_store import read_completions, read_groups
from tests.support.smoke import remains

# Does what the file `act` beside it says, once, when it has been called as often as the file says.
REWARD = """
import os, signal
from pathlib import Path

ACT = Path(__file__).with_name("act")

def reward(prompts, completions, preference_group, **columns):
    values = [len(set(c)) / 10 + (g == "b") for c, g in zip(completions, preference_group)]
    if not ACT.exists():
        return values
    wait, what = ACT.read_text().split()
    if int(wait) > 1:
        ACT.write_text(f"{int(wait) - 1} {what}")
        return values
    ACT.unlink()
    if what == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    if what == "interrupt-twice":
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    if what == "raise":
        raise ZeroDivisionError("of my own making")
    if what == "string":
        return ["good"] * len(values)
    if what == "short":
        return values[1:]
    if what == "nan":
        return [float("nan")] * len(values)
    return values
"""
RECIPE = {
    "name": "tiny",
    "model": {
        "id": "random",
        "quantization": {"type": "none"},
        "compute_dtype": "float32",
        "random": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "context": 128},
    },
    "adapter": {"r": 2},
    "data": {
        "source": {"type": "jsonl", "path": "data.jsonl"},
        "max_prompt_tokens": 100,
        "eval_fraction": 0.2,
    },
    "rewards": [{"type": "python", "file": "score.py"}],
    "rollout": {"num_generations": 3, "max_completion_tokens": 6},
    "train": {"steps": 4, "prompts_per_step": 2, "learning_rate": 0.01, "save_every": 1},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a recipe, its data and its reward, in which commands run."""
    rows = [{"prompt": f"Say {i}!", "preference_group": "aab"[i % 3]} for i in range(24)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "score.py").write_text(REWARD)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pgrpo(*words, code=0):
    """Run a command in this process; its exit code must be `code` and nothing may be raised through it."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def train(*words, code=0):
    return pgrpo("train", "recipe.yaml", "--allow-code", *words, code=code)


@pytest.fixture
def whole(home):
    """What an uninterrupted run leaves."""
    train("--run-dir", "whole")
    return remains(home / "whole")


def act(home, what, wait=1):
    (home / "act").write_text(f"{wait} {what}")


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(home, whole):
    act(home, "interrupt", wait=2)
    stopped = train(code=130)
    assert "stopped after step 2 of 4; everything is saved" in stopped.stderr
    assert "Go on with: pgrpo train recipe.yaml --allow-code" in stopped.stderr
    assert not (home / "runs/tiny/adapter").exists()
    resumed = train()
    assert "resumed from step 2\n" in resumed.stdout
    assert remains(home / "runs/tiny") == whole


def test_a_second_interrupt_stops_at_once(home, whole):
    act(home, "interrupt-twice", wait=3)
    train(code=130)
    assert [path.name for path in sorted((home / "runs/tiny/checkpoints").iterdir())] == [
        "step-000001",
        "step-000002",
    ]
    train()
    assert remains(home / "runs/tiny") == whole


def test_prepare_first_and_train_later(home, whole):
    pgrpo("prepare", "recipe.yaml")
    assert "unchanged" in train().stderr
    assert remains(home / "runs/tiny") == whole


def test_a_finished_run_says_so(home, whole):
    before = (home / "whole/adapter/adapter_model.safetensors").stat().st_mtime_ns
    assert "is finished" in train("--run-dir", "whole").stdout
    assert (home / "whole/adapter/adapter_model.safetensors").stat().st_mtime_ns == before


def test_another_recipe_is_refused_by_the_names_of_its_keys(home, whole):
    refused = train("--run-dir", "whole", "--set", "train.steps=5", "--set", "loss.beta=0.1", code=2)
    assert "train.steps: 4 in the run, 5 in the recipe" in refused.stderr
    assert "loss.beta: 0.0 in the run, 0.1 in the recipe" in refused.stderr
    assert "learning_rate" not in refused.stderr
    assert remains(home / "whole") == whole


def test_fresh_starts_beside_and_changes_nothing(home, whole):
    assert "whole-2" in train("--run-dir", "whole", "--fresh").stdout
    assert remains(home / "whole") == whole
    assert remains(home / "whole-2") == whole


def test_a_run_has_one_writer(home):
    import fcntl

    pgrpo("prepare", "recipe.yaml")
    with (home / "runs/tiny/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "by another process" in train(code=2).stderr
    train()


def test_code_runs_only_where_it_is_allowed(home):
    refused = pgrpo("train", "recipe.yaml", code=2)
    assert "score.py" in refused.stderr
    assert "--allow-code" in refused.stderr


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raise", "raised ZeroDivisionError: of my own making"),
        ("string", "'good'"),
        ("short", "5 values for 6 completions"),
    ],
)
def test_a_reward_that_fails_stops_the_run_and_loses_nothing(home, whole, what, message):
    act(home, what, wait=3)
    failed = train(code=1)
    assert message in failed.stderr
    assert "prompt" in failed.stderr
    assert "Traceback" not in failed.output
    assert "resumed from step 2" in train().stdout
    assert remains(home / "runs/tiny") == whole


def test_rewards_that_are_missing_give_no_signal(home):
    act(home, "nan", wait=2)
    train("--set", "train.steps=2")
    rows = read_completions(home / "runs/tiny/history.sqlite")
    assert [(row["reward"], row["advantage"]) for row in rows if row["step"] == 2] == [(None, 0.0)] * 6
    assert sum(row.n for row in read_groups(home / "runs/tiny/history.sqlite")) == 6
    last = json.loads((home / "runs/tiny/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["missing_rewards"], last["reward_mean"], last["loss"]) == (6, None, 0.0)


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", _flip),
        ("optimizer.safetensors", lambda path: path.write_bytes(path.read_bytes()[:100])),
        ("history.json", Path.unlink),
        ("checksums.json", lambda path: path.write_text("no JSON")),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(home, whole, name, damage):
    act(home, "interrupt", wait=3)
    train(code=130)
    damage(home / "runs/tiny/checkpoints/step-000003" / name)
    resumed = train()
    assert "step-000003 is damaged" in resumed.stderr
    assert "falling back to the one before" in resumed.stderr
    assert "resumed from step 2\n" in resumed.stdout
    assert remains(home / "runs/tiny") == whole


def test_no_whole_checkpoint_is_an_error_with_a_remedy(home):
    act(home, "interrupt", wait=2)
    train(code=130)
    for path in (home / "runs/tiny/checkpoints").glob("step-*/trainer.json"):
        path.unlink()
    failed = train(code=1)
    assert "no usable checkpoint" in failed.stderr
    assert "--fresh" in failed.stderr


def test_a_cut_metrics_line_does_not_stop_a_run(home, whole):
    act(home, "interrupt", wait=2)
    train(code=130)
    with (home / "runs/tiny/metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    train()
    assert remains(home / "runs/tiny") == whole


def test_a_lost_history_store_is_told_and_its_statistics_come_back(home, whole):
    act(home, "interrupt", wait=2)
    train(code=130)
    for path in (home / "runs/tiny").glob("history.sqlite*"):
        path.unlink()
    assert "history.sqlite is missing" in train().stderr
    ours = remains(home / "runs/tiny")
    assert ours["preference_groups"] == whole["preference_groups"]
    assert ours["adapter"] == whole["adapter"]
    assert {row[0] for row in ours["completions"]} == {3, 4}


def test_a_damaged_history_store_is_an_error_with_a_remedy(home):
    act(home, "interrupt", wait=2)
    train(code=130)
    for path in (home / "runs/tiny").glob("history.sqlite-*"):
        path.unlink()
    (home / "runs/tiny/history.sqlite").write_bytes(b"no data base" * 1000)
    failed = train(code=1)
    assert "history.sqlite cannot be used" in failed.stderr
    assert "Move it away" in failed.stderr


@pytest.mark.parametrize("most", [100, 3000, 20_000])
def test_a_disk_that_takes_no_more_is_told_and_the_run_goes_on_later(home, whole, most):
    act(home, "interrupt", wait=2)
    train(code=130)
    command = [sys.executable, "-m", "pgrpo_cli", "train", "recipe.yaml", "--allow-code"]
    failed = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert failed.returncode == 1, failed.stderr
    assert "could not be written" in failed.stderr
    assert "Free some space" in failed.stderr
    assert "Traceback" not in failed.stderr
    train()
    assert remains(home / "runs/tiny") == whole


def test_groups_of_a_run(home, whole):
    groups = json.loads(pgrpo("groups", "whole", "--json").stdout)
    assert set(groups) == {"a", "b"}
    assert sum(group["n"] for group in groups.values()) == 4 * 2 * 3
    rewards = [row["reward"] for row in read_completions(home / "whole/history.sqlite", preference_group="b")]
    assert groups["b"]["mean"] == pytest.approx(sum(rewards) / len(rewards))
    assert groups["b"]["std"] == pytest.approx(torch.tensor(rewards).std().item())
    assert 1 <= groups["a"]["first_step"] <= groups["a"]["last_step"] <= 4
    assert "within" in pgrpo("groups", "whole").stdout
    assert "does not exist" in pgrpo("groups", home / "nowhere", code=2).stderr


def test_quiet_prints_the_result_only(home):
    result = train("--quiet")
    assert result.stderr == ""
    assert result.stdout == "finished: the adapter is in runs/tiny/adapter\n"


def test_the_data_of_a_run_must_be_what_prepare_wrote(home):
    act(home, "interrupt", wait=1)
    train(code=130)
    arrow = next((home / "runs/tiny/data/train").glob("*.arrow"))
    _flip(arrow)
    assert "is not what `pgrpo prepare` wrote" in train(code=2).stderr
