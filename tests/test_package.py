"""What `import pgrpo_cli` costs, and what can be imported from it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pgrpo_cli

HEAVY = {"torch", "transformers", "numpy", "pydantic", "yaml", "typer", "rich"}


def test_importing_the_package_imports_nothing_else() -> None:
    code = f"import sys, pgrpo_cli; print({HEAVY} & set(sys.modules)); print(pgrpo_cli.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["set()", pgrpo_cli.__version__]


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate", "compare", "export"])
def test_a_verb_is_a_function_also_once_its_module_is_imported(verb: str) -> None:
    # In a process of its own, in which nothing is imported yet.
    code = f"import pgrpo_cli.verbs.{verb}; from pgrpo_cli import {verb}; print(type({verb}).__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "function\n"
    assert verb in dir(pgrpo_cli)


def test_other_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'pgrpo_cli' has no attribute 'fit'"):
        _ = pgrpo_cli.fit
