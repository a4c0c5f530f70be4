"""Runs for tests: a recipe whose steps take a few hundredths of a second, and what a run leaves on disk."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from pgrpo_cli.cli.app import app

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke.yaml"

ROWS = {"often": 20, "seldom": 8, "é": 4}
"""Training rows a preference group; one name is not ASCII."""

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 1,
    "model": {
        "id": "random",
        "quantization": {"type": "none"},
        "compute_dtype": "float32",
        "random": {"hidden_size": 16, "num_layers": 2, "num_heads": 2},
    },
    "adapter": {"r": 2, "alpha": 4},
    "data": {"source": {"type": "jsonl", "path": "rows.jsonl"}},
    "rewards": [{"type": "length", "unit": "characters", "max": 6}],
    "rollout": {"num_generations": 4, "max_completion_tokens": 8},
    "train": {"steps": 6, "prompts_per_step": 3, "learning_rate": 0.01, "save_every": 2},
}

TIMES = ("seconds", "tokens_per_second")
"""Keys of metrics.jsonl that differ between runs of one recipe."""


def write_tiny(folder: Path, **sections: Any) -> Path:
    """The tiny recipe and its rows in `folder`; `sections` replace whole sections. Returns the recipe."""
    rows = [
        {"prompt": f"{group} {i}", "preference_group": group} for group, n in ROWS.items() for i in range(n)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **sections}, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def write_half_referenced(folder: Path) -> Path:
    """A recipe of two preference groups. Only the rows of the first have a reference, and a reward of it."""
    rewards = [
        {"type": "chrf", "preference_groups": ["often"]},
        {"type": "length", "unit": "characters", "max": 6, "preference_groups": ["seldom"]},
    ]
    path = write_tiny(folder, rewards=rewards)
    own: dict[str, dict[str, str]] = {"often": {"reference": "daily"}, "seldom": {}}
    rows = [
        {"prompt": f"{group} {i}", "preference_group": group, **own[group]}
        for group in own
        for i in range(12)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pgrpo(*arguments: object) -> Result:
    """Run the command in this process; an exception that is no exit is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def trained(recipe: Path, run: Path, *options: object) -> Result:
    """Train `recipe` into `run` in this process, to the end."""
    result = pgrpo("train", recipe, "--run-dir", run, *options)
    assert result.exit_code == 0, result.stderr
    return result


def go_on(folder: Path) -> Result:
    """Go on in this process with the run `run` of the recipe tiny.yaml, both in `folder`."""
    return pgrpo("train", folder / "tiny.yaml", "--run-dir", folder / "run")


def files_in(folder: Path) -> dict[str, bytes]:
    """Content of every file below `folder` by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def tables(store: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables of a database."""
    with closing(sqlite3.connect(store)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: db.execute(f"SELECT * FROM {name} ORDER BY 1, 2, 3").fetchall() for name in names}


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without their times."""
    lines = (run / "metrics.jsonl").read_bytes().decode().split("\n")
    assert lines.pop() == ""
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def outcome(run: Path) -> dict[str, Any]:
    """All that two runs of one recipe have in common, times aside. No leftovers either."""
    return {
        "names": sorted(path.name for path in run.iterdir()),
        "recipe": (run / "recipe.yaml").read_bytes(),
        "data": files_in(run / "data"),
        "metrics": metrics(run),
        "tables": tables(run / "history.sqlite"),
        "checkpoints": files_in(run / "checkpoints"),
        "adapter": files_in(run / "adapter"),
    }


def steps_in(run: Path) -> list[str]:
    """Names in checkpoints/, hidden ones too."""
    return sorted(path.name for path in (run / "checkpoints").iterdir())
