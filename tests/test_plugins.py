"""Plug-ins of installed packages are code: nothing of them is imported until the user allows it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.errors import RecipeError
from pgrpo_cli.plugins import build_from_entry_point
from tests.support.training import pgrpo, write_tiny

MODULE = """
import pathlib
from pgrpo_cli.rewards import Score

pathlib.Path(__file__).with_name('ran').touch()

class one:
    parts, value_range = ('value',), None
    def __call__(self, completions):
        return [Score(float(len(c.text)), {}) for c in completions]

def initials():
    return lambda record: record.messages[-1]['content'][0]

def leaves():
    raise SystemExit('enough')
"""
ENTRIES = """
[pgrpo.rewards]
one = marked_plugin:one
leaves = marked_plugin:leaves
[pgrpo.preference_groups]
initials = marked_plugin:initials
"""
REWARD = [{"type": "plugin", "plugin": "one"}]
GROUPS = {"source": {"type": "jsonl", "path": "rows.jsonl"}, "preference_groups": {"type": "plugin"}}
GROUPS["preference_groups"]["plugin"] = "initials"


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that an installed package leaves behind when it is imported."""
    folder = tmp_path / "site"
    info = folder / "marked-2.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: marked\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    (folder / "marked_plugin.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "marked_plugin", raising=False)
    return folder / "ran"


def build(name: str, *, allow_code: bool) -> Any:
    return build_from_entry_point("pgrpo.rewards", name, {}, where="here", allow_code=allow_code)


def test_without_leave_the_package_is_named_and_not_imported(ran: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        build("one", allow_code=False)
    assert caught.value.message == (
        "here runs plug-in 'one' (marked_plugin:one) of the installed package marked 2.1; "
        "code that a recipe names is not run by default"
    )
    assert "add --allow-code" in str(caught.value.remedy)
    assert not ran.exists() and "marked_plugin" not in sys.modules
    made, named = build("one", allow_code=True)
    assert (made.parts, named) == (("value",), "plug-in 'one' (marked_plugin:one)")
    assert ran.exists()


def test_a_plugin_that_exits_is_a_message(ran: Path) -> None:
    with pytest.raises(RecipeError, match="raised SystemExit: enough"):
        build("leaves", allow_code=True)


def refused(result: Any, ran: Path, entry: str) -> bool:
    said = f"({entry}) of the installed package marked 2.1"
    return result.exit_code == 2 and said in result.stderr and not ran.exists()


@pytest.mark.parametrize("words", [("prepare",), ("train",)])
def test_preference_groups_of_a_plugin_need_leave(ran: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    recipe = write_tiny(tmp_path, data=GROUPS)
    result = pgrpo(*words, recipe, "--run-dir", tmp_path / "run")
    assert refused(result, ran, "marked_plugin:initials")
    assert not (tmp_path / "run" / "data").exists()


def test_with_leave_prepare_runs_the_plugin_and_hands_the_leave_on(ran: Path, tmp_path: Path) -> None:
    result = pgrpo(
        "prepare", write_tiny(tmp_path, data=GROUPS), "--run-dir", tmp_path / "run", "--allow-code"
    )
    assert result.exit_code == 0, result.stderr
    assert ran.exists()
    assert "--allow-code" in result.stderr.splitlines()[-1]


def test_rewards_of_a_plugin_need_leave_in_every_command(ran: Path, tmp_path: Path) -> None:
    recipe = write_tiny(tmp_path, rewards=REWARD, train={"steps": 1, "prompts_per_step": 2})
    run, other = tmp_path / "run", tmp_path / "other"
    for words in (("train", recipe, "--run-dir", run), ("rewards", "try", recipe, "--text", "x")):
        assert refused(pgrpo(*words), ran, "marked_plugin:one"), words
    for folder in (run, other):
        result = pgrpo("train", recipe, "--run-dir", folder, "--allow-code")
        assert result.exit_code == 0, result.stderr
    ran.unlink()
    sys.modules.pop("marked_plugin")
    for words in (("eval", run), ("compare", run, other)):
        assert refused(pgrpo(*words), ran, "marked_plugin:one"), words
    result = pgrpo("eval", run, "--allow-code", "--set", "eval.matrix=true")
    assert result.exit_code == 0, result.stderr
    assert ran.exists()
