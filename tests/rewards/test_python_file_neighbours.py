"""What a reward's file may import from its own folder, when, and what of it stays behind."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.recipe.rewards import PythonReward
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.python_file import imported_files
from pgrpo_cli.rewards.reward_sum import RewardSum
from tests.support.rewards import completions, scored

IMPORTS = """
from near import VALUE
{define} reward(prompts, completions, **columns):
    from later import more
    import near
    assert near.VALUE is VALUE
    return [more(VALUE)] * len(completions)
"""


def folder_with(folder: Path, value: float, define: str = "def") -> str:
    """A reward's file whose neighbour has the value, and another that is imported when it is called."""
    folder.mkdir()
    (folder / "mine.py").write_text(IMPORTS.format(define=define))
    (folder / "near.py").write_text(f"VALUE = {value}\n")
    (folder / "later").mkdir()
    (folder / "later" / "__init__.py").write_text("from .deep import more\ncalls = []\n")
    (folder / "later" / "deep.py").write_text("def more(value):\n    return value + 1\n")
    return str(folder / "mine.py")


ANSWERS_TO_ALL = """
import sys, types

class Odd(types.ModuleType):
    def __getattr__(self, name):
        return 0.5

sys.modules["odd_module"] = Odd("odd_module")

def reward(prompts, completions, **columns):
    return [1.0] * len(completions)
"""


def test_a_file_may_import_modules_that_answer_to_every_name_as_some_of_torchs_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "odd_module", raising=False)
    (tmp_path / "mine.py").write_text(ANSWERS_TO_ALL)
    assert [score.value for score in scored(build(str(tmp_path / "mine.py")), completions("a"))] == [1.0]
    del sys.modules["odd_module"]


def build(*files: str) -> RewardSum:
    return build_rewards([PythonReward(file=f, name=f"r{i}") for i, f in enumerate(files)], Path(), True)


@pytest.mark.parametrize("define", ["def", "async def"])
def test_neighbours_are_imported_and_leave_nothing_behind(tmp_path: Path, define: str) -> None:
    before, path = set(sys.modules), list(sys.path)
    rewards = build(folder_with(tmp_path / "a", 1, define), folder_with(tmp_path / "b", 5, define))
    for _ in range(2):
        # Each has its own neighbours, though they have the same names.
        assert scored(rewards, completions("x", "y"), batch=1)[0].parts == {"r0": 2.0, "r1": 6.0}
    assert sys.path == path
    assert {name for name in sys.modules if name not in before} & {"near", "later", "later.deep"} == set()


def test_what_is_installed_comes_first(tmp_path: Path) -> None:
    for name in ("json", "yaml", "sched"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the neighbour was taken')")
    source = "import json, yaml, sched\ndef reward(prompts, completions, **columns): return [1.0]"
    (tmp_path / "mine.py").write_text(source)
    assert scored(build(str(tmp_path / "mine.py")), completions("x"))[0].value == 1.0


def test_nothing_beside_the_file_is_imported_without_leave(tmp_path: Path) -> None:
    file = folder_with(tmp_path / "a", 1)
    (tmp_path / "a" / "near.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nVALUE = 1\n")
    with pytest.raises(RecipeError, match="not run by default"):
        build_rewards([PythonReward(file=file)], Path(), False)
    assert not (tmp_path / "ran").exists()
    build(file)
    assert (tmp_path / "ran").exists()


def test_a_path_that_the_user_has_set_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder_with(tmp_path / "a", 1)
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    path = list(sys.path)
    scored(build(file), completions("x"))
    assert sys.path == path


def test_what_a_file_imports_of_its_folder_is_found_without_running_it(tmp_path: Path) -> None:
    file = Path(folder_with(tmp_path / "a", 1))
    near = file.with_name("near.py")
    near.write_text("import json, os.path, mine, far as f\nfrom . import nothing\nraise SystemExit\n")
    file.with_name("far.py").write_text("import gone; import " + "x" * 5000)
    file.with_name("unused.py").write_text("")
    later = file.with_name("later")
    found = imported_files(file)
    assert found[0] == file
    assert set(found[1:]) == {near, file.with_name("far.py"), later / "__init__.py", later / "deep.py"}
    # What cannot be read has no imports.
    near.write_text("(" * 100_000)
    assert file.with_name("far.py") not in imported_files(file)


IN_PARTS = """
from helpers.sub.score import SCORE
def reward(prompts, completions, **columns):
    from helpers.sub import score
    from helpers.late import more
    assert score.SCORE is SCORE
    return [more.VALUE] * len(completions)
"""


def test_packages_without_init_are_imported_and_leave_nothing_behind(tmp_path: Path) -> None:
    for folder in ("helpers/sub", "helpers/late"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "helpers" / "sub" / "score.py").write_text("SCORE = object()\n")
    (tmp_path / "helpers" / "late" / "more.py").write_text("VALUE = 3\n")
    (tmp_path / "mine.py").write_text(IN_PARTS)
    rewards = build(str(tmp_path / "mine.py"))
    for _ in range(2):
        assert scored(rewards, completions("x"))[0].value == 3.0
    assert not {name for name in sys.modules if name.split(".")[0] == "helpers"}


def test_what_is_installed_below_the_folder_stays_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a project whose .venv stands beside the reward's file: compiled modules cannot be imported twice.
    installed = tmp_path / ".venv" / "lib" / "site-packages"
    (installed / "some_package_of_a_venv").mkdir(parents=True)
    (installed / "some_package_of_a_venv" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(installed))
    (tmp_path / "near.py").write_text("import some_package_of_a_venv\n")
    (tmp_path / "mine.py").write_text(
        "import near\ndef reward(prompts, completions, **columns): return [1.0] * len(completions)\n"
    )
    scored(build(str(tmp_path / "mine.py")), completions("x"))
    assert sys.modules.pop("some_package_of_a_venv", None)
    assert "near" not in sys.modules


def test_a_part_of_a_package_that_was_there_before_stays_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where the reward's file stands in the folder of a checkout of this project.
    (tmp_path / "whole").mkdir()
    for name in ("__init__", "part"):
        (tmp_path / "whole" / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("whole")
    (tmp_path / "mine.py").write_text(
        "import whole.part\ndef reward(prompts, completions, **columns): return [1.0] * len(completions)\n"
    )
    scored(build(str(tmp_path / "mine.py")), completions("x"))
    assert {sys.modules.pop(name, None) is None for name in ("whole", "whole.part")} == {False}
