"""Preparing MovieLens-shaped ratings: seconds and peak memory of the source and of `pgrpo prepare`.

    python benchmarks/prepare.py --json prepare.json
    python benchmarks/prepare.py --ratings 100000 1000000

The ratings are drawn at random in the shape of MovieLens: 20 to some thousands a user, films as frequent as
their rank allows, several of a user's in one second, tags for one rating in sixteen. Each size is written
once, and every case runs in a process of its own:

source, all users   the source with max_users: null: four training prompts and a held-out one of every user
source, 1000 users  the same of fewer users: what it costs to read and to sort
prepare             `pgrpo prepare` with the source's defaults (at most 10,000 users) and the random model of
                    recipes/smoke.yaml, whose tokens are bytes; it loads PyTorch
prepare, 200 users  the same of fewer users

Seconds are those of the work, without starting Python and importing, by the clock and of the processor;
memory is the most that the process has ever held, all included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.processes import FAILED, keep, measured_by

ROOT = Path(__file__).resolve().parent.parent
SIZES = (100_000, 1_000_000, 32_000_000)
CASES: dict[str, dict[str, Any]] = {
    "source, all users": {"max_users": None},
    "source, 1000 users": {"max_users": 1000},
    "prepare": {},
    "prepare, 200 users": {"max_users": 200},
}
RATINGS_PER_USER, LEAST_RATINGS = 160, 20
USERS_AT_ONCE = 10_000
GENRES = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ratings", type=int, nargs="+", default=list(SIZES), help="sizes (default all)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(step(*arguments.step)))  # noqa: T201
        return

    from rich.console import Console

    console = Console()
    results: dict[str, dict[str, Any]] = {}
    for size in arguments.ratings:
        with tempfile.TemporaryDirectory() as folder:
            found = results[str(size)] = {"written": apart("write", folder, str(size))}
            console.print(f"{size:,} ratings: {json.dumps(found['written'])}", soft_wrap=True)
            if FAILED in found["written"]:
                continue
            for case in arguments.cases:
                found[case] = apart(case, folder, str(size))
                console.print(f"{size:,} ratings, {case}: {json.dumps(found[case])}", soft_wrap=True)
                keep(arguments.json, results)
    console.print(as_table(results, arguments.cases))


def apart(*arguments: str) -> dict[str, Any]:
    """What `step` finds in a process of its own, or `{"failed": why}`."""
    return measured_by([sys.executable, __file__, "--step", *arguments])


def step(name: str, folder: str, size: str) -> dict[str, Any]:
    """One case, or the writing of the ratings."""
    if name == "write":
        return write(Path(folder), int(size))
    if name.startswith("prepare"):
        return {**prepare_data(Path(folder), **CASES[name]), "peak_mb": peak_mb()}
    return {**read(Path(folder), **CASES[name]), "peak_mb": peak_mb()}


def read(folder: Path, **section: Any) -> dict[str, Any]:
    import numpy  # noqa: F401
    import pyarrow.csv  # noqa: F401

    from pgrpo_cli.data.sources.context import ReadContext
    from pgrpo_cli.data.sources.movielens import read_movielens
    from pgrpo_cli.recipe.public_sets import MovielensSource

    begun = time.perf_counter(), time.process_time()
    data = read_movielens(MovielensSource(path=str(folder), **section), ReadContext(folder))
    return {**since(*begun), "train": len(data.train), "eval": len(data.eval or ())}


def prepare_data(folder: Path, **section: Any) -> dict[str, Any]:
    from pgrpo_cli.cli.libraries import prepare_libraries

    prepare_libraries()
    from pgrpo_cli.model.load.base_model import load_tokenizer
    from pgrpo_cli.recipe.load import load_recipe
    from pgrpo_cli.verbs.prepare import prepare_data

    source = "".join(f", {key}: {value}" for key, value in section.items())
    overrides = [
        f"data.source={{type: movielens, path: {folder}{source}}}",
        "data.max_prompt_tokens=2000",
        "model.random.context=2048",
        "rewards.0={type: regex, pattern: x}",
    ]
    recipe = load_recipe(ROOT / "recipes" / "smoke.yaml", overrides)
    begun = time.perf_counter(), time.process_time()
    report = prepare_data(recipe, folder / "run", folder, load_tokenizer(recipe.model, folder))
    return {**since(*begun), "train": report.train_prompts, "eval": report.eval_prompts}


def since(clock: float, processor: float) -> dict[str, float]:
    return {
        "seconds": round(time.perf_counter() - clock, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
    }


def write(folder: Path, size: int) -> dict[str, Any]:
    """ratings.csv, movies.csv and tags.csv with about `size` ratings; how many of what there are."""
    import numpy as np

    rng = np.random.default_rng(0)
    films, users = int(15 * size**0.5), size // RATINGS_PER_USER
    with open(folder / "movies.csv", "w") as file:
        file.write("movieId,title,genres\n")
        for film in range(1, films + 1):
            genres = "|".join(sorted({GENRES[index] for index in rng.integers(len(GENRES), size=3)}))
            file.write(f'{film},"Film {film}, The ({1930 + film % 95})",{genres}\n')
    ratings = write_ratings(folder / "ratings.csv", rng, users, films)
    with open(folder / "tags.csv", "w") as file:
        file.write("userId,movieId,tag,timestamp\n")
        tagged = (films * rng.random(size // 16) ** 3).astype(int) + 1
        words = (5000 * rng.random(size // 16) ** 3).astype(int)
        for film, word in zip(tagged.tolist(), words.tolist(), strict=True):
            file.write(f"{1 + word % users},{film},word {word},{10**9 + 100 * word}\n")
    return {"ratings": ratings, "users": users, "films": films}


def write_ratings(path: Path, rng: Any, users: int, films: int) -> int:
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    whole = pa.int64()
    schema = pa.schema(
        [("userId", whole), ("movieId", whole), ("rating", pa.float64()), ("timestamp", whole)]
    )
    unquoted = csv.WriteOptions(quoting_style="none")
    count = 0
    with csv.CSVWriter(str(path), schema, write_options=unquoted) as file:
        for first in range(1, users + 1, USERS_AT_ONCE):
            ids = np.arange(first, min(first + USERS_AT_ONCE, users + 1))
            # Log-normal with mean exp(mu + sigma^2 / 2) = 155; a film that is drawn twice counts once.
            many = LEAST_RATINGS + rng.lognormal(np.log(155) - 0.72, 1.2, len(ids)).astype(int)
            user = np.repeat(ids, np.minimum(many, films // 4))
            film = (films * rng.random(len(user)) ** 3).astype(np.int64) + 1
            pairs = np.unique(user * (films + 1) + film)
            user, film = pairs // (films + 1), pairs % (films + 1)
            moment = 10**9 + 5000 * (user * 7919 % 100_003) + rng.integers(0, 3000, len(user)) * 5
            rating = np.clip(np.round(rng.normal(7, 2, len(user))), 1, 10) / 2
            file.write(pa.table([user, film, rating, moment], schema=schema))
            count += len(user)
    return count


def peak_mb() -> int:
    """The most resident memory that this process has had, in MB of 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kib * 1024 / 1e6)


def as_table(results: dict[str, dict[str, Any]], cases: list[str]) -> Any:
    """A line a size and case."""
    from rich.table import Table

    table = Table("ratings", box=None)
    table.add_column("case", no_wrap=True)
    for heading in ("prompts", "seconds", "processor", "processor a million", "peak MB"):
        table.add_column(heading, justify="right")
    for size, found in results.items():
        for case in cases:
            numbers = found.get(case, found["written"])
            if FAILED in numbers:
                table.add_row(size, case, FAILED)
                continue
            table.add_row(
                f"{found['written']['ratings']:,}",
                case,
                f"{numbers['train'] + numbers['eval']:,}",
                f"{numbers['seconds']:.1f}",
                f"{numbers['processor_seconds']:.1f}",
                f"{numbers['processor_seconds'] / found['written']['ratings'] * 1e6:.2f}",
                f"{numbers['peak_mb']:,}",
            )
    return table


if __name__ == "__main__":
    main()
