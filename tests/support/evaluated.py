"""A tiny run that is trained and evaluated, for what `pgrpo eval` adds to an evaluation afterwards."""

from __future__ import annotations

from pathlib import Path

import yaml
from typer.testing import CliRunner, Result

from pgrpo_cli.cli.app import app

from .recipes import changed

GROUPS, PROMPTS = 7, 14
KEPT = Path("eval", "step-000002.json")
RECIPE = changed(
    name="tiny",
    model__quantization={"type": "none"},
    model__compute_dtype="float32",
    adapter__r=2,
    data__source={"type": "personas", "prompts": 14, "eval_prompts_per_group": 2},
    rewards=[{"type": "length", "unit": "characters", "max": 6}],
    rollout={"num_generations": 4, "max_completion_tokens": 8},
    train={"steps": 2, "prompts_per_step": 4, "learning_rate": 0.5, "warmup_steps": 0, "save_every": 1},
    eval={"num_completions": 2, "bootstrap_samples": 100},
)


def pgrpo(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def evaluated_run(folder: Path) -> Path:
    """The recipe tiny.yaml in `folder`, and its run of two steps."""
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    result = pgrpo("train", folder / "tiny.yaml", "--run-dir", folder / "run", "--quiet")
    assert result.exit_code == 0, result.output
    assert pgrpo("eval", folder / "run", "--quiet").exit_code == 0
    return folder / "run"
