"""What rewards with a pretrained model of their own have in common."""

from __future__ import annotations

from pydantic import Field

from .base import Section
from .model import ModelName, NoQuantization, Quantization


class PretrainedFields(Section):
    """Which model, and how much of it at once. It loads from safetensors, without remote code."""

    model: ModelName = Field(
        description="A hub id, or a local directory; a relative path starts at the recipe's folder.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    quantization: Quantization = Field(
        NoQuantization(), description="How this model's weights are stored on the GPU or CPU."
    )
    max_tokens: int = Field(
        1024, ge=8, description="Longest input, in tokens; a longer one loses its beginning."
    )
    batch_size: int = Field(
        16, ge=1, description="Inputs computed together; halved while they do not fit the GPU's memory."
    )
