"""Does the loop serve a person? Somebody with a hidden taste picks, a model is trained, they pick again.

    python benchmarks/taste_loop.py --output runs/loop              three tastes, one after the other
    python benchmarks/taste_loop.py --output runs/loop --tastes brief --steps 30

For each taste, by the commands that a person would type:

1. `pgrpo taste RECIPE --answers -`: a scripted person sees pairs of answers of the base model and picks by a
   hidden function of the text, with a mistake in one of ten picks. What the function is, is nowhere said.
2. `pgrpo rewards try`: how predictable the picks are, cross-validated, as the taste reward says.
3. `pgrpo train RECIPE` with the reward that was learnt from the picks.
4. `pgrpo taste RUN --between base,tuned`: the same person, blind, on questions that were not asked before.

The table has the win rate of the tuned model with its interval, and the hidden value of the answers of both.
A taste that is done is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.markdown import table

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "my-taste.yaml"
QUESTIONS = ROOT / "recipes" / "my-taste" / "questions.txt"
MISTAKES = 0.1

TASTES: dict[str, Callable[[str], float]] = {
    # Few words; beyond forty it makes no difference.
    "brief": lambda text: -float(min(len(text.split()), 40)),
    # Spoken to: "you" and "your", up to six.
    "personal": lambda text: float(min(len(re.findall(r"\byour?\b", text.lower())), 6)),
    # Loud: exclamation marks, up to three.
    "loud": lambda text: float(min(text.count("!"), 3)),
    # Short words: letters per word.
    "plain": lambda text: -sum(map(len, text.split())) / max(len(text.split()), 1),
}


def main() -> None:
    """Run every taste that is not done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for picks, runs and results")
    parser.add_argument("--tastes", nargs="+", choices=TASTES, default=list(TASTES))
    parser.add_argument("--pairs", type=int, default=40, help="picks before training, and after it")
    parser.add_argument("--steps", type=int, default=30, help="steps of training")
    options = parser.parse_args()
    # A path of a recipe starts at the recipe's folder.
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    asked, held_out = _questions(options.output)
    rows = []
    for name in options.tastes:
        path = options.output / name / "result.json"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            found = _loop(path.parent, name, asked, held_out, options.pairs, options.steps)
            path.write_text(json.dumps(found, indent=2))
        rows.append(_row(name, json.loads(path.read_text())))
    heads = [
        "hidden taste",
        "picks predicted",
        "won",
        "lost",
        "same",
        "win rate",
        "value base",
        "value tuned",
    ]
    sys.stdout.write(f"{table(heads, rows)}\n")


def _questions(folder: Path) -> tuple[Path, Path]:
    """Half of the recipe's questions for the picks, the other half for the test at the end."""
    lines = [line for line in QUESTIONS.read_text("utf-8").splitlines() if line.strip()]
    halves = folder / "asked.txt", folder / "held-out.txt"
    for half, some in zip(halves, (lines[::2], lines[1::2]), strict=True):
        half.write_text("\n".join(some) + "\n", "utf-8")
    return halves


def _loop(folder: Path, name: str, asked: Path, held_out: Path, pairs: int, steps: int) -> dict[str, Any]:
    picks, run = folder / "taste.jsonl", folder / "run"
    person = _Person(TASTES[name], name)
    if not picks.exists():
        arguments = [
            str(RECIPE),
            "--prompts",
            str(asked),
            "--output",
            str(picks),
            "--run-dir",
            str(folder / "before"),
        ]
        person.taste([*arguments, "--pairs", str(pairs)])
    sets = ["--set", f"data.source.path={picks}", "--set", f"rewards.0.path={picks}"]
    tried = _pgrpo("rewards", "try", str(RECIPE), *sets, "--text", "Yes.", "--group", "ana")
    _pgrpo("train", str(RECIPE), *sets, "--set", f"train.steps={steps}", "--run-dir", str(run), "--quiet")
    person.seen.clear()
    arguments = [str(run), "--between", "base,tuned", "--prompts", str(held_out), "--pairs", str(pairs)]
    result = person.taste([*arguments, "--output", str(folder / "test.jsonl")])
    shown = [json.loads(line) for line in (folder / "test.jsonl").read_text("utf-8").splitlines()]
    values: dict[str, list[float]] = {"base": [], "tuned": []}
    for pick in (record for record in shown if record["kind"] == "pick"):
        for model, answer in zip(pick["models"], pick["answers"], strict=True):
            values[model].append(TASTES[name](answer))
    means = {model: sum(of_model) / len(of_model) for model, of_model in values.items()}
    return {"reward": tried.stderr, "test": result, "values": means}


class _Person:
    """Picks by a hidden function of the text; equal values are a tie, and one of ten picks is a mistake."""

    def __init__(self, value: Callable[[str], float], name: str) -> None:
        self._value, self._rng = value, random.Random(name)
        self.seen: list[dict[str, Any]] = []

    def taste(self, arguments: Sequence[str]) -> dict[str, Any]:
        """Sit through `pgrpo taste` with these arguments; returns what it says at its end."""
        command = [sys.executable, "-m", "pgrpo_cli", "taste", *arguments]
        command += ["--user", "ana", "--answers", "-", "--json"]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as program:
            assert program.stdin is not None and program.stdout is not None
            found: dict[str, Any] = {}
            for line in program.stdout:
                found = json.loads(line)
                if "answers" in found:
                    self.seen.append(found)
                    program.stdin.write(f"{self._pick(*found['answers'])}\n")
                    program.stdin.flush()
        if program.returncode:
            raise SystemExit(program.returncode)
        return found

    def _pick(self, first: str, second: str) -> str:
        difference = self._value(first) - self._value(second)
        if difference == 0:
            return "="
        right = difference > 0
        if self._rng.random() < MISTAKES:
            right = not right
        return "1" if right else "2"


def _pgrpo(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pgrpo_cli", *arguments], cwd=ROOT, text=True, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"pgrpo {' '.join(arguments)}: {done.returncode}\n{done.stderr}")
    return done


def _row(name: str, found: dict[str, Any]) -> list[str]:
    test, values = found["test"], found["values"]
    predicted = next((line for line in found["reward"].splitlines() if "ana" in line), "-")
    rate = f"{test['win_rate']:.2f} [{test['ci_low']:.2f}, {test['ci_high']:.2f}]"
    counts = [str(test[key]) for key in ("wins", "losses", "ties")]
    return [name, predicted, *counts, rate, f"{values['base']:.2f}", f"{values['tuned']:.2f}"]


if __name__ == "__main__":
    main()
