"""What libraries say to programmers does not reach the user's terminal; what is the user's own does."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgrpo_cli.errors import RunWarning
from tests.support.training import write_tiny

NOISY = """
import logging, sys, warnings
import datasets, huggingface_hub, torch, transformers

LOGGERS = ["huggingface_hub.utils._http", "transformers.modeling_utils", "datasets.load", "evaluate.loading",
           "urllib3.connectionpool", "httpx2", "filelock", "fsspec.local", "torch.distributed", "absl", "trl"]

def reward(prompts, completions, **columns):
    for name in LOGGERS:
        logging.getLogger(name).warning("Retrying in 1s [Retry 1/5], says %s", name)
        if not name.startswith("torch"):
            logging.getLogger(name).error("an error, says %s", name)
    for module in ("huggingface_hub.file_download", "datasets.builder", "numpy", "__main__"):
        for category in (UserWarning, FutureWarning, DeprecationWarning, RuntimeWarning):
            warnings.warn_explicit(f"says {module}", category, "library.py", 1, module=module)
    warnings.warn("half of them are empty")
    logging.getLogger("mine").warning("I log")
    return [1.0 for _ in completions]
"""


def noisy(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    recipe = write_tiny(folder, rewards=[{"type": "python", "file": "mine.py"}])
    (folder / "mine.py").write_text(NOISY)
    words = ("rewards", "try", str(recipe), "--text", "a", "--group", "b", "--allow-code")
    where = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return subprocess.run(
        [sys.executable, "-P", "-m", "pgrpo_cli", *words],
        capture_output=True, text=True, check=False, env={**where, **environment},
    )  # fmt: skip


def test_libraries_are_silent_and_the_users_own_code_is_not(tmp_path: Path) -> None:
    done = noisy(tmp_path)
    assert done.returncode == 0
    line = NOISY.splitlines().index('    warnings.warn("half of them are empty")') + 1
    own = f"warning: {tmp_path}/mine.py:{line}: UserWarning: half of them are empty\nI log\n"
    assert done.stderr == own


def test_whoever_asks_gets_the_warnings_of_libraries(tmp_path: Path) -> None:
    done = noisy(tmp_path, PYTHONWARNINGS="default", DATASETS_VERBOSITY="warning")
    assert "warning: library.py:1: FutureWarning: says datasets.builder\n" in done.stderr
    assert "Retrying in 1s [Retry 1/5], says datasets.load" in done.stderr
    assert "says urllib3.connectionpool" not in done.stderr


WATCHED = """
import os, platform, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            names = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"
            print({name: os.environ[name] for name in names if name in os.environ})
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Watch())
sys.platform, platform.release = "linux", lambda: RELEASE
from pgrpo_cli.cli.process import run
run()
"""
"""A command that ends where torch would be imported, and says what torch's allocator would read."""

NATIVE, WINDOWS = "6.8.0-45-generic", "5.15.167.4-microsoft-standard-WSL2"
OURS = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


def allocator_of(folder: Path, *words: str, release: str = NATIVE, **environment: str) -> dict[str, str]:
    bare = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.replace("RELEASE", repr(release)), *words],
        capture_output=True, text=True, check=True, cwd=folder, env={**bare, **environment},
    )  # fmt: skip
    return dict(ast.literal_eval(done.stdout))


@pytest.mark.parametrize(
    "words", [("plan", "tiny.yaml"), ("train", "tiny.yaml"), ("rewards", "try", "tiny.yaml", "--text", "a")]
)
def test_segments_grow_from_before_torch_is_there(tmp_path: Path, words: tuple[str, ...]) -> None:
    write_tiny(tmp_path, rewards=[{"type": "python", "file": "mine.py"}])
    (tmp_path / "mine.py").write_text("import torch\n")
    allowed = ("--allow-code",) if words[0] == "rewards" else ()
    assert allocator_of(tmp_path, *words, *allowed) == OURS


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
def test_an_allocator_that_the_user_has_set_stays(tmp_path: Path, name: str) -> None:
    """Torch reads all of them, the older names first: one of ours beside them would not hold."""
    write_tiny(tmp_path)
    given = {name: "backend:native"}
    assert allocator_of(tmp_path, "plan", "tiny.yaml", **given) == given


def test_segments_do_not_grow_in_windows_linux(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    assert allocator_of(tmp_path, "plan", "tiny.yaml", release=WINDOWS) == {}


OWN = """
import sys, warnings
from pgrpo_cli.cli import app, process
from pgrpo_cli.errors import RunWarning

def command(prog_name):
    warnings.warn("slower [/x] \\x1b[2J", RunWarning, stacklevel=2)

app.app = command
process.run()
"""


def test_our_own_warnings_are_notes() -> None:
    done = subprocess.run([sys.executable, "-c", OWN], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "warning: slower [/x] \\u001b[2J\n")


def test_a_run_says_that_it_goes_on_without_graphs() -> None:
    from pgrpo_cli.model.rollout.graphs import Graphs

    class Refusing:
        def warm_up(self, step: object) -> None: ...

        def record(self, step: object) -> None:
            raise RuntimeError("not permitted")

        def forget(self) -> None: ...

    with pytest.warns(RunWarning, match="without CUDA graphs"):
        Graphs(Refusing()).runner("", "")("key", lambda: None)  # type: ignore[arg-type]
