"""`pgrpo eval` and `pgrpo compare` from the outside, on runs of a tiny random model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import pgrpo_cli
from pgrpo_cli.cli.app import app
from pgrpo_cli.verbs.compare import _labels
from tests.support.recipes import changed
from tests.support.training import write_half_referenced

RECIPE = changed(
    name="tiny",
    model__quantization={"type": "none"},
    adapter__r=2,
    data__source={"type": "personas", "prompts": 14, "eval_prompts_per_group": 2},
    rewards=[{"type": "length", "unit": "characters", "max": 8}],
    rollout={"num_generations": 2, "max_completion_tokens": 4},
    train={"steps": 2, "prompts_per_step": 2, "learning_rate": 0.05, "warmup_steps": 0, "save_every": 1},
    eval={"num_completions": 2, "bootstrap_samples": 100},
)
GROUPS = 7


def pgrpo(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def succeeds(*words: str | Path) -> Result:
    result = pgrpo(*words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, two trained runs of it and one that is only prepared."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    recipe = folder / "tiny.yaml"
    succeeds("train", recipe, "--run-dir", folder / "a", "--quiet")
    succeeds(
        "train", recipe, "--run-dir", folder / "b", "--quiet", "--set", "advantage.estimator=grpo",
        "--set", "train.steps=1",
    )  # fmt: skip
    succeeds("prepare", recipe, "--run-dir", folder / "empty", "--quiet")
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as `runs` in the current directory."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["rows"]  # type: ignore[no-any-return]


def test_eval_of_a_recipe_writes_numbers_and_a_page(runs: Path) -> None:
    result = succeeds("eval", runs / "tiny.yaml", "--run-dir", runs / "a")
    assert "a, step 2: mean reward on held-out prompts" in result.stdout
    assert "macro mean" in result.stdout
    assert "each counted once" in result.stdout
    assert f"Report: {runs / 'a' / 'report.html'}" in result.stderr
    assert "Next: " in result.stderr
    # 7 preference groups x 2 prompts x 2 completions, of two models.
    assert len(rows_of(runs / "a" / "eval" / "step-000002.json")) == GROUPS * 2 * 2 * 2
    page = (runs / "a" / "report.html").read_text()
    assert "a, after step 2" in page and "Learning curve" in page


def test_eval_of_a_run_is_the_eval_of_its_recipe(runs: Path) -> None:
    succeeds("eval", runs / "tiny.yaml", "--run-dir", runs / "a", "--quiet")
    before = (runs / "a" / "eval" / "step-000002.json").read_bytes()
    succeeds("eval", runs / "a", "--fresh", "--quiet")
    assert (runs / "a" / "eval" / "step-000002.json").read_bytes() == before


def test_with_json_standard_output_is_that_json_alone(runs: Path) -> None:
    result = succeeds("eval", runs / "a", "--json")
    found = json.loads(result.stdout)
    assert len(found["groups"]) == GROUPS
    for group in found["groups"].values():
        for which in ("base", "tuned"):
            assert set(group[which]) == {"mean", "ci_low", "ci_high", "n"}
            assert group[which]["n"] == 2
    macro = found["overall"]["macro"]
    assert macro["difference"]["mean"] == pytest.approx(macro["tuned"]["mean"] - macro["base"]["mean"])
    assert found["path"] == str(runs / "a" / "eval" / "step-000002.json")
    assert "rows" not in found
    assert "base model: sampling 14 prompts" in result.stderr


def test_an_evaluation_is_not_made_twice(runs: Path) -> None:
    first = succeeds("eval", runs / "a", "--json")
    again = succeeds("eval", runs / "a", "--json")
    assert "holds this evaluation already; --fresh samples again" in again.stderr
    assert "sampling" not in again.stderr
    assert again.stdout == first.stdout
    table = Path(json.loads(first.stdout)["table"])
    before = table.read_bytes()
    table.unlink()
    assert f"Completions: {table}" in succeeds("eval", runs / "a").stderr
    assert table.read_bytes() == before
    assert "sampling" in succeeds("eval", runs / "a", "--fresh").stderr


def test_other_settings_make_another_evaluation(runs: Path) -> None:
    succeeds("eval", runs / "a", "--quiet")
    found = succeeds("eval", runs / "a", "--json", "--set", "eval.num_completions=1")
    assert json.loads(found.stdout)["sampling"]["num_completions"] == 1
    assert len(rows_of(runs / "a" / "eval" / "step-000002.json")) == GROUPS * 2 * 2


def test_quiet_says_nothing_but_the_result(runs: Path) -> None:
    result = succeeds("eval", runs / "a", "--quiet")
    assert not any(word in result.stderr for word in ("sampling", "Report", "Next"))
    assert "macro mean" in result.stdout


def test_what_cannot_be_evaluated(runs: Path) -> None:
    for words, message in [
        ((runs / "empty",), "runs/empty has nothing trained yet"),
        ((runs / "tiny.yaml",), "runs/tiny: there is no such run"),
        ((runs,), "runs is not a run: it has no recipe.yaml"),
        ((runs / "a", "--run-dir", runs / "b"), "which one?"),
        ((runs / "a", "--set", "train.learning_rate=0.1"), "train.learning_rate: 0.05 in the run"),
        ((runs / "nothing",), "runs/nothing: there is no such file"),
    ]:
        result = pgrpo("eval", *words)
        assert (result.exit_code, result.stdout) == (2, ""), words
        assert message in result.stderr
        assert isinstance(result.exception, SystemExit)


def test_compare_evaluates_what_is_missing_and_shows_who_is_ahead(runs: Path) -> None:
    succeeds("eval", runs / "b", "--quiet")
    result = succeeds("compare", runs / "b", runs / "a")
    assert "a keeps no evaluation of its newest adapter: evaluating it now" in result.stderr
    # The base model's completions are those of the other run.
    assert "tuned model: sampling" in result.stderr and "base model: sampling" not in result.stderr
    assert "a against b" in result.stdout and "macro mean" in result.stdout
    assert "The adapter of a is that of step 2, that of b is that of step 1." in result.stdout
    page = (runs / "a" / "compare.html").read_text()
    assert "advantage.estimator" in page
    base = [[row for row in rows_of(path) if row["which"] == "base"] for path in runs.glob("?/eval/*.json")]
    assert len(base) == 2 and base[0] == base[1]


def test_compare_as_json(runs: Path) -> None:
    found = json.loads(succeeds("compare", runs / "b", runs / "a", "--json", "--html", "page.html").stdout)
    pairs = found["pairs"]
    assert len(pairs) == GROUPS + 1
    assert {"run", "reference", "preference_group", "difference", "ci_low", "ci_high", "verdict"} <= set(
        pairs[0]
    )
    assert [pair["preference_group"] for pair in pairs].count(None) == 1
    assert {(pair["run"], pair["reference"]) for pair in pairs} == {("a", "b")}
    assert found["paths"] == {"a": "runs/a", "b": "runs/b"}
    assert Path("page.html").is_file() and not (runs / "a" / "compare.html").exists()


def test_a_run_compared_with_itself(runs: Path) -> None:
    found = json.loads(succeeds("compare", runs / "a", runs / "a", "--json").stdout)
    assert {pair["verdict"] for pair in found["pairs"]} == {"no difference"}
    assert {pair["difference"] for pair in found["pairs"]} == {0.0}


def test_what_a_reader_must_know_is_said(runs: Path) -> None:
    result = succeeds("eval", runs / "a", "--quiet", "--set", "eval.max_prompts_per_group=1")
    assert "a single held-out prompt gives no interval" in result.stdout


def test_nothing_is_sampled_for_a_comparison_that_will_be_refused(runs: Path) -> None:
    assert pgrpo("compare", runs / "a").exit_code == 2
    for page in ("no/page.html", ".", runs):
        assert pgrpo("compare", runs / "a", runs / "b", "--html", page).exit_code == 2
    assert not (runs / "a" / "eval").exists()


def test_a_quiet_comparison_leaves_standard_error_empty(runs: Path) -> None:
    # A process of its own: libraries that other tests have imported are past being told to be quiet.
    command = [sys.executable, "-m", "pgrpo_cli", "compare", str(runs / "b"), str(runs / "a"), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(Path(pgrpo_cli.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    assert "macro mean" in done.stdout


def test_what_cannot_be_compared(runs: Path) -> None:
    succeeds("eval", runs / "a", "--quiet")
    succeeds("eval", runs / "b", "--quiet", "--set", "eval.temperature=0.5")
    refused = pgrpo("compare", runs / "a", runs / "b")
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "b cannot be compared with a:\n  sampling.temperature: 0.5, there 1.0" in refused.stderr
    for words, message in [
        ((runs / "a",), "at least two runs, got 1"),
        ((runs / "a", runs / "nothing"), "there is no such run"),
        ((runs / "a", runs / "a", "--html", "no/page.html"), "no: there is no such folder"),
        ((runs / "a", runs / "a", "--html", "."), ".: is a folder"),
        ((runs / "a", runs / "a", "--html", f"{runs}/"), f"{runs}: is a folder"),
    ]:
        result = pgrpo("compare", *words)
        assert (result.exit_code, result.stdout) == (2, ""), words
        assert message in result.stderr


def test_runs_go_by_their_names_unless_two_have_the_same() -> None:
    assert _labels([Path("x/a"), Path("x/b"), Path("x/a")]) == ["a", "b", "a"]
    assert _labels([Path("x/a"), Path("y/a")]) == ["x/a", "y/a"]


def test_a_reward_of_one_group_that_reads_its_rows_costs_the_matrix_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    succeeds("train", write_half_referenced(tmp_path), "--run-dir", run, "--quiet")
    said = succeeds("eval", run)
    assert "note: there is no personalization matrix: reward 'chrf': the data lack column" in said.stderr
    assert json.loads((run / "eval" / "step-000006.json").read_text())["matrix"] is None
