"""Are held-out users served better where the model is told who asks? Two runs of a recipe, prompt by prompt.

    pgrpo train recipes/thumbs.yaml --run-dir runs/with && pgrpo eval runs/with
    pgrpo train recipes/thumbs.yaml --force --set data.conditioning.type=prompt --run-dir runs/without
    pgrpo eval runs/without
    python benchmarks/conditioning.py runs/with runs/without

`pgrpo compare` refuses such runs, because their prompts differ. Here the same question of the same preference
group is compared, whatever stands before it. Differences are the first run's mean reward minus the second's.
Each preference group counts once. The 95 % intervals are over questions: with one held-out user per
preference group nothing is known of how users differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.markdown import table
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.eval.targets import eval_target, kept_result
from pgrpo_cli.state.run import run_at
from pgrpo_cli.stats.intervals import Bootstrap, combination_interval

Question = tuple[str, str]
"""A preference group, and what its user asks."""
Means = Mapping[str, Mapping[Question, float]]
"""The mean reward of each question, for the base and the tuned model."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="an evaluated run")
    rows = differences(*(_means(run) for run in parser.parse_args().runs))
    sys.stdout.write(f"{table(['mean reward', 'difference', 'questions'], rows)}\n")


def differences(told: Means, untold: Means) -> list[list[str]]:
    """A row for the tuned model in each preference group, and rows over all of them for the tuned model, the
    base model, and the gain of training.
    """
    questions = sorted(told["tuned"].keys() & untold["tuned"].keys())
    groups = sorted({group for group, _ in questions})
    tuned, base = ({q: told[w][q] - untold[w][q] for q in questions} for w in ("tuned", "base"))
    gained = {q: tuned[q] - base[q] for q in questions}

    def row(name: str, values: Mapping[Question, float], keys: Sequence[str]) -> list[str]:
        strata = [[values[q] for q in questions if q[0] == key] for key in keys]
        found = combination_interval(strata, Bootstrap(), [1 / len(keys)] * len(keys))
        count = sum(map(len, strata))
        return [name, f"{found.mean:+.3f} [{found.low:+.3f}..{found.high:+.3f}]", str(count)]

    return [
        *(row(f"tuned model, {group}", tuned, [group]) for group in groups),
        row("**tuned model**", tuned, groups),
        row("base model", base, groups),
        row("what training gained", gained, groups),
    ]


def _means(path: Path) -> Means:
    """The mean reward of each question by model. Ends with a message for a run without an evaluation."""
    run = run_at(path)
    result = kept_result(eval_target(run, run.recipe(), run.recipe_dir), any_settings=True)
    if result is None:
        raise SystemExit(f"{path} has no evaluation: run pgrpo eval {path}")
    prompts = load_prepared(path, "eval")
    asked = {p.prompt_id: (p.preference_group, p.messages[-1]["content"]) for p in prompts}
    rewards: dict[str, dict[Question, list[float]]] = {"base": {}, "tuned": {}}
    for row in result.rows:
        rewards[row.which].setdefault(asked[row.prompt_id], []).append(row.reward)
    return {which: {q: fmean(own) for q, own in of.items()} for which, of in rewards.items()}


if __name__ == "__main__":
    main()
