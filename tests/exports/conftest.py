"""A tiny finished run, to export."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training import TINY, trained, write_tiny

# Quantization works on blocks of 32 numbers.
SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 4}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps with a checkpoint after the second, fourth and sixth; the model is a random Llama."""
    folder = tmp_path_factory.mktemp("exported")
    recipe = write_tiny(
        folder, model={**TINY["model"], "random": SHAPE}, train={**TINY["train"], "learning_rate": 0.05}
    )
    trained(recipe, folder / "run")
    return folder / "run"
