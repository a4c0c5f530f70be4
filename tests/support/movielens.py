"""MovieLens-shaped collections, written by tests."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

from pgrpo_cli.data.records import SourceData
from pgrpo_cli.data.sources.context import ReadContext
from pgrpo_cli.data.sources.movielens import read_movielens
from pgrpo_cli.recipe.public_sets import MovielensSource

Rating = tuple[int, int, float, int]
"""user, film, stars, time"""

GENRES = ("Action", "Comedy", "Drama", "Horror")
HEADERS = {
    "ratings": "userId,movieId,rating,timestamp",
    "movies": "movieId,title,genres",
    "tags": "userId,movieId,tag,timestamp",
}


def films(count: int) -> list[tuple[int, str, str]]:
    """Films 1 to `count`; film i has the genre i modulo 4, and every third one another one besides."""
    return [
        (i, f"Film {i}, The (1990)", GENRES[i % 4] + ("|" + GENRES[(i + 1) % 4] if i % 3 == 0 else ""))
        for i in range(1, count + 1)
    ]


def collection(
    folder: Path,
    ratings: list[Rating],
    movies: list[tuple[Any, ...]] | None = None,
    tags: list[tuple[Any, ...]] | None = None,
    *,
    style: str = "csv",
) -> Path:
    """Write a collection; `style` is csv, dat, csv.zip or dat.zip. Returns its path."""
    movies = films(max(rating[1] for rating in ratings)) if movies is None else movies
    tables: dict[str, list[tuple[Any, ...]]] = {"ratings": list(ratings), "movies": movies}
    if tags is not None:
        tables["tags"] = tags
    extension = style.partition(".")[0]
    contents = {
        f"{name}.{extension}": text_of(name, rows, extension).encode(
            "latin-1" if extension == "dat" else "utf-8"
        )
        for name, rows in tables.items()
    }
    if not style.endswith(".zip"):
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        return folder
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(f"ml/{name}", content)
    return path


def text_of(name: str, rows: list[tuple[Any, ...]], extension: str) -> str:
    """A table as MovieLens writes it."""
    if extension == "dat":
        return "".join("::".join(map(str, row)) + "\n" for row in rows)
    out = io.StringIO()
    out.write(HEADERS[name] + "\n")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def read(path: Path, *, seed: int = 0, groups_from_rows: bool = True, **section: Any) -> SourceData:
    """What the source reads with little history and few ratings needed."""
    settings = {"history": 2, "min_ratings": 2, "candidates": 3} | section
    if "tags_" in settings:
        settings["tags"] = settings.pop("tags_")
    context = ReadContext(path.parent, seed, groups_from_rows)
    return read_movielens(MovielensSource(path=path.name, **settings), context)
