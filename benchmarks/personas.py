"""P-GRPO and its rivals on a real model: the seven personas on SmolLM2-135M, several seeds each.

    python benchmarks/personas.py --jobs 2 --write docs/reproduction.md
    python benchmarks/personas.py --tables              # from the results that there are, training nothing

The rate of each method is the one of RATES with the higher training reward over the second half of its run
with seed 0: held-out prompts have no part in it. The runs at that rate, seed 0's among them, are compared.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from benchmarks.personas_runs import (
    METHODS,
    ROOT,
    Results,
    chosen_rates,
    compared_runs,
    train_all,
    tuning_runs,
)

RESULTS = Path(__file__).with_name("personas.json")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each method (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each with its share of the cores")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="records of finished runs"
    )
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "personas", metavar="DIR")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    results = Results(arguments.results)

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    train_all(tuning_runs(arguments.methods), results, arguments.runs_dir, arguments.jobs, tell)
    rates = chosen_rates(arguments.methods, results.records)
    tell(f"rates: {rates}")
    train_all(compared_runs(rates, arguments.seeds), results, arguments.runs_dir, arguments.jobs, tell)


if __name__ == "__main__":
    main()
