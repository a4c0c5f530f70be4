"""The script of docs/beyond-one-gpu.md runs, and is TRL's own but for two lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pgrpo_cli.model.load.random_model import random_tokenizer
from tests.support.policies import SHAPE

PAGE = Path(__file__).parents[2] / "docs" / "beyond-one-gpu.md"
LINES = (
    ("from pgrpo_cli.engines.trl import PGRPOTrainer", "from trl import GRPOTrainer"),
    ("trainer = PGRPOTrainer(", "trainer = GRPOTrainer("),
)


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script of the page, with a tiny model and two short steps."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(tmp_path / "model")
    random_tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    for found, instead in (
        ('"Qwen/Qwen3-0.6B"', repr(str(tmp_path / "model"))),
        ("max_completion_length=256, max_steps=200", "max_completion_length=8, max_steps=2, use_cpu=True"),
    ):
        assert text.count(found) == 1
        text = text.replace(found, instead)
    return text


def test_the_script_of_the_page_runs(script, capsys):
    found = {}
    exec(compile(script, "script", "exec"), found)
    # 2 steps of 8 completions.
    assert sum(stats.n for stats in found["trainer"].history.stats().values()) == 16
    assert "GroupStats" in capsys.readouterr().out


def test_two_of_its_lines_are_not_trls(script):
    for ours, theirs in LINES:
        assert script.count(ours) == 1
        script = script.replace(ours, theirs)
    script = script.replace("print(trainer.history.stats())", "")
    found = {}
    exec(compile(script, "script", "exec"), found)
    assert type(found["trainer"]).__name__ == "GRPOTrainer"
