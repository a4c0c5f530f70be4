"""Commands that only read what is kept start at once: they import neither torch nor what waits for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "datasets", "peft", "bitsandbytes", "pyarrow"}
COMMAND = """
import json, sys
from typer.testing import CliRunner
from pgrpo_cli.cli.app import app

done = CliRunner().invoke(app, sys.argv[1:])
print(json.dumps({"code": done.exit_code, "text": done.output, "modules": list(sys.modules)}))
"""


@pytest.mark.parametrize("command", ["doctor", "groups", "validate", "compare"])
def test_torch_is_not_imported(command: str, run: Path) -> None:
    words = [str(run)]
    if command == "validate":
        words = [str(run / "recipe.yaml")]
    elif command == "compare":
        words.append(str(shutil.copytree(run, run.with_name("other"))))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, command, *words], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["code"] == 0, found["text"]
    assert {module.split(".")[0] for module in found["modules"]} & HEAVY == set()
