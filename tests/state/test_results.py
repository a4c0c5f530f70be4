"""Result files: what is written is what is read, and what cannot be read is explained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import CheckpointError, EvalError
from pgrpo_cli.state.results import read_result, result_path, write_result
from pgrpo_cli.state.run import RunDirectory
from pgrpo_cli.stats.result_types import EvalResult
from tests.support.results import result_of

BASE = {"calm": {"a": [0.0, 0.2], "b": [0.3, 0.3]}, "loud": {"x": [0.5, 0.5]}}
TUNED = {"calm": {"a": [0.4, 0.4], "b": [0.2, math.nan]}, "loud": {"x": [0.5, 0.6]}}


def saved(tmp_path: Path) -> tuple[EvalResult, Path]:
    """An evaluation in its place; the group `loud` has one prompt, and so no interval."""
    result = result_of(BASE, TUNED)
    path = result_path(RunDirectory(tmp_path), result.step)
    write_result(result, path)
    return result, path


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    result, path = saved(tmp_path)
    assert path == tmp_path / "eval" / "step-000024.json"
    # NaN is unequal to itself: compare the representations.
    assert repr(read_result(path)) == repr(result)
    assert math.isnan(read_result(path).groups["loud"].tuned.ci_low)


def test_the_file_has_the_documented_shape(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["version"] == 2
    # Prompt means 0.1 and 0.3; prompts 2.
    assert content["groups"]["calm"]["base"]["mean"] == pytest.approx(0.2)
    assert content["groups"]["calm"]["base"]["n"] == 2
    assert content["groups"]["loud"]["tuned"] == {"mean": 0.55, "ci_low": None, "ci_high": None, "n": 1}
    assert set(content["overall"]["macro"]) == {"base", "tuned", "difference"}
    assert content["rows"][0]["text"] == "base answer 0 to a"
    missing = [row for row in content["rows"] if row["reward"] is None]
    assert [(row["prompt_id"], row["completion_index"]) for row in missing] == [("b", 1)]


def test_equal_results_are_equal_bytes(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    before = path.read_bytes()
    saved(tmp_path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path.with_suffix(".arrow"), path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, path = saved(tmp_path)
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"step-000024\.json could not be written: No space left"):
        write_result(result.model_copy(update={"seed": 1}), path)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == [path.with_suffix(".arrow"), path]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="there is no such evaluation"):
        read_result(tmp_path / "eval" / "step-000001.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"rows": []}', '"text"', "[" * 100_000])
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "step-000001.json"
    path.write_text(content)
    with pytest.raises(EvalError, match="is damaged") as caught:
        read_result(path)
    assert str(path) in caught.value.message
    assert "--fresh" in str(caught.value.remedy)


def test_a_damaged_field_is_named(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    content = json.loads(path.read_text())
    content["groups"]["calm"]["base"]["n"] = "many"
    path.write_text(json.dumps(content))
    with pytest.raises(EvalError, match=r"groups\.calm\.base\.n: Input should be a valid integer"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found["details"].pop("calm"), "details: other preference groups than in groups"),
        (lambda found: found["kept"]["groups"].pop("calm"), "kept.groups: other preference groups"),
        (lambda found: found["rows"][0].update(preference_group="no"), "rows: other preference groups"),
        (lambda found: found["rows"][0].update(prompt_id="no"), "rows: other prompts than in prompts"),
        (lambda found: found["recipe"].update(eval=[]), "recipe: its sections are none"),
        (lambda found: found["recipe"].update(seed="x"), "recipe.seed: it is no number"),
        (lambda found: found["weights"].pop("calm"), "weights: not all preference groups of groups"),
        (lambda found: found["model"].pop("id"), "model.id: it is missing"),
        (lambda found: found["matrix"]["base"].append([0.0, 0.0]), "matrix: its rows and columns"),
        (lambda found: found["matrix"]["tuned"][0].pop(), "matrix: its rows and columns"),
        (lambda found: found["matrix"]["scales"].pop(), "matrix: its rows and columns"),
        (lambda found: found["sampling"].pop("temperature"), "sampling.temperature: "),
        (lambda found: found["sampling"].update(num_completions="4"), "sampling.num_completions: "),
        (lambda found: found.update(confidence=2.0), "confidence: Input should be less than or equal to"),
        (lambda found: found.update(bootstrap_samples=10**12), "bootstrap_samples: Input should be less"),
    ],
)
def test_what_contradicts_the_rest_is_damage(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    _, path = saved(tmp_path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(EvalError, match=f"is damaged: {why}") as caught:
        read_result(path)
    assert caught.value.exit_code == 2


def test_groups_without_held_out_prompts_have_a_weight(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    content = json.loads(path.read_text())
    content["weights"]["absent"] = 7
    path.write_text(json.dumps(content))
    assert read_result(path).weights["absent"] == 7


def test_a_newer_version_is_not_guessed_at(tmp_path: Path) -> None:
    _, path = saved(tmp_path)
    content = json.loads(path.read_text()) | {"version": 3}
    path.write_text(json.dumps(content))
    with pytest.raises(EvalError, match="has version 3 and this pgrpo reads version 2"):
        read_result(path)
