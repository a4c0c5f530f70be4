"""What the package needs, and that the recipe's words are the algorithm's."""

from __future__ import annotations

import re
import subprocess
import sys
import typing
from pathlib import Path

from pgrpo_cli.algo import advantages
from pgrpo_cli.algo.estimators import PRESETS
from pgrpo_cli.algo.history import HistoryKind as AlgoHistoryKind
from pgrpo_cli.algo.losses import Aggregation
from pgrpo_cli.recipe.training import HistorySection, LossSection

WITHOUT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None  # an import of it fails
from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.history import RewardHistory
history = RewardHistory()
history.update([1.0, 3.0], ["a", "a"], num_generations=2, step=1)
found = compute_advantages([1.0, 3.0], ["a", "a"], num_generations=2, history=history)
print([round(a, 3) for a in found.advantages_N.tolist()])
"""


def test_torch_is_all_it_takes():
    blocked = ["numpy", "transformers", "pydantic", "datasets", "peft", "yaml", "rich", "typer"]
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT.format(blocked=blocked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[-0.707, 0.707]", done.stderr


def test_the_recipe_offers_the_kinds_of_history_and_the_aggregations():
    sections = typing.get_args(HistorySection.model_fields["kind"].annotation)
    assert {s.model_fields["type"].default for s in sections} == set(typing.get_args(AlgoHistoryKind))
    offered = typing.get_args(LossSection.model_fields["aggregation"].annotation)
    assert offered == ("auto", *typing.get_args(Aggregation))


DOCS = (Path(__file__).parents[2] / "docs" / "algorithm.md").read_text(encoding="utf-8")


def test_the_documented_example_prints_what_it_says(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
    exec(example, {})
    (promised,) = re.findall(r"print.*# (.*)", example)
    assert capsys.readouterr().out.strip() == promised


def test_the_documented_functions_exist_under_their_option():
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(_\w+)` \|$", DOCS, re.MULTILINE)
    tables = [*advantages._BASELINES.items(), *advantages._SCALES.items()]
    assert rows == [(option, function.__name__) for option, function in tables]
    for preset, (baseline, scale) in PRESETS.items():
        assert f"| `{preset}` | `{baseline}` | `{scale}` |" in DOCS
