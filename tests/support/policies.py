"""Tiny policies of real architectures with random weights, and rollouts to try them on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.model.load.adapted_linear import use_adapted_linears
from pgrpo_cli.model.load.random_model import random_tokenizer
from pgrpo_cli.model.policy import Policy
from pgrpo_cli.model.rollouts import Rollouts

VOCABULARY = len(random_tokenizer())
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
# A window shorter than the test prompts, so that it matters.
SLIDING: dict[str, Any] = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
HYBRID: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_experts": 0,
    "decoder_sparse_step": 0,
    "mlp_only_layers": [0, 1],
}
GEMMA3N: dict[str, Any] = {
    **SLIDING,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    "activation_sparsity_pattern": [0.0, 0.0],
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "phi3": {"head_dim": None},
    "gemma3_text": SLIDING,
    "gemma2": {**SLIDING, "attn_implementation": "eager"},
}


def tiny_base(architecture: str, dtype: torch.dtype, **changes: Any) -> Any:
    """A random model of an architecture."""
    settings = {**SHAPE, **ARCHITECTURES.get(architecture, {}), **changes}
    attention = settings.pop("attn_implementation", "sdpa")
    config = CONFIG_MAPPING[architecture](**{k: v for k, v in settings.items() if v is not None})
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(dtype)
    if dtype == torch.float64:
        _norms_in_float64(base)
    base.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=1)
    return base


def tiny_policy(
    architecture: str = "llama",
    dtype: torch.dtype = torch.float64,
    *,
    dropout: float = 0.0,
    target_modules: str | list[str] = "all-linear",
    **changes: Any,
) -> Policy:
    """A random model of an architecture under a LoRA adapter that is not zero."""
    base = tiny_base(architecture, dtype, **changes)
    base.requires_grad_(False)
    adapter = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=dropout, target_modules=target_modules
    )
    model = get_peft_model(base, adapter, autocast_adapter_dtype=False)
    use_adapted_linears(model)
    policy = Policy(model, random_tokenizer(), torch.device("cpu"))
    randomize_adapter(policy)
    return policy


def _norms_in_float64(model: torch.nn.Module) -> None:
    """transformers computes these norms in float32 whatever their input; their rounding hides the rest."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            epsilon = getattr(module, "variance_epsilon", None) or module.eps
            weight = module.weight + 1 if "Gemma" in type(module).__name__ else module.weight
            module.forward = partial(_rms_norm, weight.detach(), epsilon)


def _rms_norm(weight: torch.Tensor, epsilon: float, x: torch.Tensor) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)


def randomize_adapter(policy: Policy, scale: float = 0.3) -> None:
    """LoRA starts as zero, which would hide an adapter that is left out."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.trainable.values():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(scale * noise / parameter.shape[-1] ** 0.5)


def make_prompts(lengths: Sequence[int], vocabulary: int = VOCABULARY) -> list[PreparedPrompt]:
    """Prompts of random tokens, in two preference groups."""
    generator = torch.Generator().manual_seed(sum(lengths))
    return [
        PreparedPrompt(
            f"prompt-{i}",
            "ab"[i % 2],
            "",
            tuple(torch.randint(2, vocabulary, (n,), generator=generator).tolist()),
            {},
            ({"role": "user", "content": f"question {i}"},),
        )
        for i, n in enumerate(lengths)
    ]


def made_up_rollouts(prompt_lengths: Sequence[int], completion_lengths_N: Sequence[int]) -> Rollouts:
    """Rollouts of random tokens with given lengths."""
    prompts = make_prompts(prompt_lengths)
    generator = torch.Generator().manual_seed(7)
    lengths_N = torch.tensor(completion_lengths_N)
    shape = (len(completion_lengths_N), int(lengths_N.max()))
    mask_N_T = torch.arange(shape[1]) < lengths_N.unsqueeze(1)
    ids_N_T = torch.randint(2, VOCABULARY, shape, generator=generator).masked_fill(~mask_N_T, 1)
    return Rollouts(
        prompts=tuple(prompts),
        num_generations=len(completion_lengths_N) // len(prompts),
        completion_ids_N_T=ids_N_T,
        completion_mask_N_T=mask_N_T,
        sampling_logprobs_N_T=torch.zeros(shape),
        finished_N=torch.ones(shape[0], dtype=torch.bool),
        texts_N=("",) * shape[0],
    )
