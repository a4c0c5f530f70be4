"""P-GRPO and its rivals on a real model: the seven personas on SmolLM2-135M, several seeds each.

    python benchmarks/personas.py --jobs 2 --write docs/reproduction-tables.md
    python benchmarks/personas.py --tables              # from the results that there are, training nothing

The rate of each method is the one of RATES with the higher training reward over the second half of its run
with seed 0: held-out prompts have no part in it. The runs at that rate, seed 0's among them, are compared.
Further seeds of some methods, `--seeds 5 --methods grpo pgrpo`, count wherever both of a pair have them. The
tables are of all methods that there are, whichever are trained.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console

from benchmarks.markdown import renew
from benchmarks.personas_runs import METHODS, chosen_rates, compared_runs, record_of, tuning_runs
from benchmarks.personas_tables import LEAST_SEEDS, methods_of, tables
from benchmarks.study import ROOT, Results, train_all

RESULTS = Path(__file__).with_name("personas.json")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=LEAST_SEEDS, help="seeds of each method (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each with its share of the cores")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="records of finished runs"
    )
    parser.add_argument("--tables", action="store_true", help="train nothing: the tables of what there is")
    parser.add_argument("--write", type=Path, metavar="FILE", help="renew the tables between FILE's markers")
    parser.add_argument("--runs-dir", type=Path, default=ROOT / "runs" / "personas", metavar="DIR")
    arguments = parser.parse_args()
    console = Console(stderr=True)
    results = Results(arguments.results)

    def tell(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    if not arguments.tables:
        how = results, arguments.runs_dir, arguments.jobs, record_of, tell
        train_all(tuning_runs(arguments.methods), *how)
        rates = chosen_rates(arguments.methods, results.records)
        train_all(compared_runs(rates, arguments.seeds), *how)
    tuned = [name for name in METHODS if all(r.name in results.records for r in tuning_runs([name]))]
    methods = methods_of(chosen_rates(tuned, results.records), results.records)
    if not methods:
        raise SystemExit(f"{arguments.results} has no method with {LEAST_SEEDS} seeds; leave --tables away")
    text = tables(methods, results.records)
    Console(soft_wrap=True).print(text, markup=False, highlight=False)
    if arguments.write:
        renew(arguments.write, "personas", text)


if __name__ == "__main__":
    main()
