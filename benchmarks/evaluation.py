"""What `pgrpo eval` and `pgrpo compare` take by themselves: seconds and peak memory, next to no model.

    python benchmarks/evaluation.py --json evaluation.json
    python benchmarks/evaluation.py --prompts 100 --runs 4 --rows 1000

The model is the random one of recipes/smoke.yaml, two layers of 32, so that what is measured is sampling's
bookkeeping, rewards, intervals, files and pages; a real model's seconds come on top. Each line is a command
as a user gives it, in a process of its own, from starting Python to the page on the disk:

eval, 7 prompts   one held-out prompt a persona: what it takes to start, to load and to resample
eval              all of them: 4 completions each of base and tuned model, two rewards, the matrix
compare           two methods of several seeds, every run with an evaluation of so many completions, half of
                  them the base model's, four prompts a user

The evaluations that are compared are drawn at random and written by the project's own writers into copies of
the run that was evaluated. Memory is the most that the process has ever held.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "smoke.yaml"
PERSONAS, COMPLETIONS = 7, 4
PROMPTS_A_USER = 4
METHODS = ("grpo", "pgrpo")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=1000, help="held-out prompts (default 1000)")
    parser.add_argument("--runs", type=int, default=10, help="runs to compare (default 10)")
    parser.add_argument("--rows", type=int, default=10_000, help="completions a run (default 10000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--write", nargs=3, metavar=("RUN", "RUNS", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write_runs(Path(arguments.write[0]), int(arguments.write[1]), int(arguments.write[2]))
        return

    from rich.console import Console

    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder) / "run", arguments.prompts, arguments.runs, arguments.rows)
    Console(width=110).print(as_table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def measure(run: Path, prompts: int, runs: int, rows: int) -> dict[str, dict[str, Any]]:
    """All lines, by name."""
    a_group = -(-prompts // PERSONAS)
    settings = [f"data.source.eval_prompts_per_group={a_group}", f"eval.num_completions={COMPLETIONS}"]
    settings += ["eval.bootstrap_samples=2000", "train.steps=2"]
    pgrpo("train", str(RECIPE), "--run-dir", str(run), *(f"--set={setting}" for setting in settings))
    few = pgrpo("eval", str(run), "--set=eval.max_prompts_per_group=1")
    all_of_them = pgrpo("eval", str(run))
    command([sys.executable, __file__, "--write", str(run), str(runs), str(rows)])
    compared = pgrpo("compare", *map(str, copies(run, runs)))
    return {
        f"eval, {PERSONAS} prompts": {"completions": 2 * COMPLETIONS * PERSONAS, **few},
        f"eval, {a_group * PERSONAS:,} prompts": {
            "completions": 2 * COMPLETIONS * a_group * PERSONAS, **all_of_them
        },
        f"compare, {runs} runs": {"completions": runs * rows, **compared},
    }  # fmt: skip


def pgrpo(*arguments: str) -> dict[str, float]:
    return command([sys.executable, "-m", "pgrpo_cli", *arguments])


def command(words: list[str]) -> dict[str, float]:
    """Run a command in a process of its own, and what it took."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        # No Popen.wait: the resources of one child are known to wait4 only.
        process = subprocess.Popen(words, stdout=said, stderr=said, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(words)} failed:\n{said.read().decode(errors='replace')}")
    return {
        "seconds": round(time.perf_counter() - begun, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6),
    }


def copies(run: Path, runs: int) -> list[Path]:
    return [run.with_name(f"{METHODS[i % len(METHODS)]}-{i // len(METHODS)}") for i in range(runs)]


def write_runs(run: Path, runs: int, rows: int) -> None:
    """Copies of the run for every method and seed, each with a made evaluation of its adapter."""
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.state.run import RunDirectory, claim

    given = RunDirectory(run).recipe().model_dump(mode="json")
    for number, path in enumerate(copies(run, runs)):
        made = {**given, "seed": number // len(METHODS)}
        made["advantage"] = {**given["advantage"], "estimator": METHODS[number % len(METHODS)]}
        recipe = Recipe.model_validate(made)
        claim(RunDirectory(path), recipe, RECIPE.parent)
        kept = shutil.ignore_patterns("recipe.yaml", "origin.json", "eval", "report.html", "*.lock")
        shutil.copytree(run, path, ignore=kept, dirs_exist_ok=True)
        write_evaluation(RunDirectory(path), rows, random.Random(number))


def write_evaluation(run: Any, rows: int, rng: random.Random) -> None:
    from pgrpo_cli.eval.targets import eval_target
    from pgrpo_cli.state.results import write_result
    from pgrpo_cli.stats.completions import kept_of
    from pgrpo_cli.stats.estimates import Resampler
    from pgrpo_cli.stats.evaluation import summarise
    from pgrpo_cli.stats.intervals import Bootstrap
    from pgrpo_cli.stats.result_types import EvalResult

    target = eval_target(run, run.recipe(), run.recipe_dir)
    header = target.header
    made = made_rows(rows, sorted(target.group_sizes), rng)
    prompts = {row.prompt_id: f"What shall {row.prompt_id} play?" for row in made}
    users = {prompt: f"user-{i // PROMPTS_A_USER}" for i, prompt in enumerate(sorted(prompts))}
    bootstrap = Bootstrap(header.bootstrap_samples, header.confidence, header.seed)
    result = EvalResult(
        **dict(header),
        **dict(summarise(made, bootstrap, target.group_sizes, users=users)),
        kept=kept_of(made, {"base": 20.0, "tuned": 21.0}, Resampler(bootstrap, users)),
        matrix=None,
        prompts=prompts,
        users=users,
        rows=made,
    )
    write_result(result, target.path)


def made_rows(rows: int, groups: list[str], rng: random.Random) -> list[Any]:
    """Completions of 40 words to as many prompts as `rows` needs; prompts of a preference group in a row."""
    from pgrpo_cli.stats.result_types import EvalRow

    words = [f"word{number}" for number in range(500)]
    prompts = rows // (2 * COMPLETIONS)
    found = []
    for which in ("base", "tuned"):
        for prompt in range(prompts):
            group = groups[prompt * len(groups) // prompts]
            for index in range(COMPLETIONS):
                style = rng.gauss(0.4 if which == "tuned" else 0.1, 0.3)
                found.append(
                    EvalRow(
                        prompt_id=f"prompt-{prompt:06d}",
                        preference_group=group,
                        which=which,
                        completion_index=index,
                        reward=style + 0.1,
                        parts={"personas": style, "length": 1.0},
                        kl=0.02 if which == "tuned" else float("nan"),
                        length=48,
                        finished=True,
                        text=" ".join(rng.choices(words, k=40)),
                    )
                )
    return found


def as_table(found: dict[str, dict[str, Any]]) -> Any:
    """A line a command."""
    from rich.table import Table

    table = Table("command", box=None)
    for heading in ("completions", "seconds", "processor, s", "peak, MB"):
        table.add_column(heading, justify="right")
    for name, numbers in found.items():
        table.add_row(
            name,
            f"{numbers['completions']:,}",
            f"{numbers['seconds']:.1f}",
            f"{numbers['processor_seconds']:.1f}",
            f"{numbers['peak_mb']:,}",
        )
    return table


if __name__ == "__main__":
    main()
