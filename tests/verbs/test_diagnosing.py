"""Findings while a run trains: each is said once, also by a run that goes on, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.verbs import diagnosing
from tests.support.training import TINY, go_on, outcome, pgrpo, trained, write_tiny

STEPS = 20
NEVER: list[dict[str, Any]] = [{"type": "keyword", "keywords": ["a word that no random model writes"]}]


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The recipe tiny.yaml whose reward is always 0, its run `run`, and what was printed while it trained."""
    folder = tmp_path_factory.mktemp("ill")
    train = {**TINY["train"], "steps": STEPS, "save_every": 5, "keep_checkpoints": 9}
    recipe = write_tiny(folder, rewards=NEVER, train=train)
    return folder, trained(recipe, folder / "run").stderr


def copied(ill: tuple[Path, str], target: Path, *, checkpoint: int) -> Path:
    """The folder, with its run as if it had been killed after the step of that checkpoint, or later."""
    folder = Path(shutil.copytree(ill[0], target))
    shutil.rmtree(folder / "run" / "adapter")
    for step in range(checkpoint + 5, STEPS + 1, 5):
        shutil.rmtree(folder / "run" / "checkpoints" / f"step-{step:06d}")
    return folder


def said(stderr: str) -> list[str]:
    """Lines that speak of rewards that are all alike."""
    return [line for line in stderr.splitlines() if "nothing tells a good answer from a bad one" in line]


def test_a_finding_is_said_once(ill: tuple[Path, str]) -> None:
    folder, stderr = ill
    (line,) = said(stderr)
    # 10 steps of 3 prompts with 4 completions.
    assert line.startswith(
        "problem: step 10: All 120 rewards of all preference groups in steps 1 to 10 are 0:"
    )
    assert "too hard" in line and "rollout.num_generations=8" in line
    assert stderr.count(f"(pgrpo doctor {folder / 'run'} repeats it)") == 1
    entries = json.loads((folder / "run" / "findings.json").read_text())
    assert entries[0]["rule"] == "no-spread" and entries[0]["step"] == 10


def test_a_run_that_goes_on_does_not_repeat_it_and_ends_the_same(
    ill: tuple[Path, str], tmp_path: Path
) -> None:
    whole = outcome(ill[0] / "run")
    findings = (ill[0] / "run" / "findings.json").read_bytes()
    folder = copied(ill, tmp_path / "later", checkpoint=10)
    result = go_on(folder)
    assert "resumed from step 10" in result.stdout and said(result.stderr) == []
    assert (folder / "run" / "findings.json").read_bytes() == findings
    assert outcome(folder / "run") == whole
    # It is the memory that keeps it silent.
    folder = copied(ill, tmp_path / "forgets", checkpoint=10)
    (folder / "run" / "findings.json").unlink()
    assert said(go_on(folder).stderr)[0].startswith("problem: step 15: All 180 rewards")


def test_a_run_thrown_back_before_the_finding_does_not_repeat_it(
    ill: tuple[Path, str], tmp_path: Path
) -> None:
    folder = copied(ill, tmp_path / "copy", checkpoint=5)
    assert said(go_on(folder).stderr) == []
    assert outcome(folder / "run") == outcome(ill[0] / "run")


def test_a_diagnosis_that_cannot_be_written_stops_no_run(
    ill: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied(ill, tmp_path / "copy", checkpoint=5)
    (folder / "run" / "findings.json").unlink()

    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pgrpo_cli.state.run_view.write_json", full)
    result = go_on(folder)
    assert result.exit_code == 0
    assert len(said(result.stderr)) == 1
    assert result.stderr.count("no more diagnosis in this session") == 1


def test_quiet_tells_findings_all_the_same(ill: tuple[Path, str], tmp_path: Path) -> None:
    folder = copied(ill, tmp_path / "copy", checkpoint=5)
    (folder / "run" / "findings.json").unlink()
    result = pgrpo("train", folder / "tiny.yaml", "--run-dir", folder / "run", "--quiet")
    assert len(said(result.stderr)) == 1


def test_it_looks_every_few_steps_from_the_tenth_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = diagnosing.DiagnosingObserver._look
    monkeypatch.setattr(
        diagnosing.DiagnosingObserver,
        "_look",
        lambda self, step: (looks.append(step), real(self, step))[1],
    )
    trained(write_tiny(tmp_path), tmp_path / "run", "--set", "train.steps=17")
    assert looks == [10, 15]
