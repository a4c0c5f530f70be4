"""Checks of what a run computes: gradients on NF4 weights, the paths that the model takes."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from pgrpo_cli.model.load.adapted_linear import lora_layers
from pgrpo_cli.model.load.from_recipe import adapted
from pgrpo_cli.model.load.probe import packing_differences, sampling_differences
from pgrpo_cli.model.load.probe import probe as probe_paths
from pgrpo_cli.model.nf4 import nf4_layers, plain_weight
from pgrpo_cli.model.policy import Paths, Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.model.update.logprobs import packed_logprobs
from pgrpo_cli.model.update.packing import pack, whole_rows

from . import results
from .shapes import PlainTokenizer, build_base
from .subject import Subject, plainly, randomize_adapter

_GRADIENT_ERROR = 0.05
"""Share of the gradient that dequantized weights may change. Without a gradient through NF4 it was 0.99."""
_FEW_LAYERS, _FEW_TOKENS = 2, 4096
"""Layers and vocabulary of the model whose weights are all dequantized: that of 8B would take 16 GB."""
_SEEDS_GPU, _SEEDS_CPU = 20, 3
_PROBE_SECONDS = 60.0


def gradient(subject: Subject) -> tuple[results.Gradient, str | None]:
    """Beside the same weights dequantized, in a model of a few of the shape's layers."""
    shape = subject.shape
    layers, vocabulary = min(shape.layers, _FEW_LAYERS), min(shape.vocabulary, _FEW_TOKENS)
    shape = replace(shape, layers=layers, vocabulary=vocabulary)
    recipe = subject.recipe()
    base, paths = build_base(shape, recipe.model, subject.device), Paths(graphs=False)
    policy = adapted(base, PlainTokenizer(shape.vocabulary), recipe, subject.device, paths=paths)
    randomize_adapter(policy)
    prompts = subject.prompts(2, vocabulary=shape.vocabulary)
    layers = len(nf4_layers(policy.model))
    # What a rollout does to the packed weights is the question, so these are made before.
    weights = [plain_weight(layer.base_layer, policy.dtype) for layer in lora_layers(policy.model)]
    rollouts = sample(policy, prompts, SamplingSettings(2, 8), seed=0)
    # A plain forward pass without gradients in eval mode makes bitsandbytes repack weights on some CPUs.
    policy.model.eval()
    with torch.no_grad(), policy.base():
        policy.model(input_ids=torch.tensor([prompts[0].input_ids], device=subject.device))
    after_rollout = _adapter_gradient(policy, rollouts)
    _use(weights, policy)
    expected = _adapter_gradient(policy, rollouts)
    error = float((after_rollout - expected).norm() / expected.norm())
    found = results.Gradient(layers=layers, error=error)
    if layers == 0:
        return found, "no layer of the model is quantized"
    if not error <= _GRADIENT_ERROR:
        return found, f"gradients on NF4 weights are off by {error:.1%}: a run would not learn what it should"
    return found, None


def _adapter_gradient(policy: Policy, rollouts: Rollouts) -> torch.Tensor:
    policy.model.zero_grad()
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=policy.tokenizer.pad_token_id)
    policy.train()
    packed_logprobs(policy, packed, temperature=1.0).sum().backward()
    return torch.cat([p.grad.float().flatten() for p in policy.trainable.values() if p.grad is not None])


def _use(weights: list[torch.Tensor], policy: Policy) -> None:
    """Put a plain layer with these weights in the place of each quantized one."""
    for layer, weight in zip(lora_layers(policy.model), weights, strict=True):
        size_out, size_in = weight.shape
        plain = torch.nn.Linear(size_in, size_out, bias=False, dtype=weight.dtype, device="meta")
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        layer.base_layer = plain


def model(subject: Subject) -> tuple[results.Model, str | None]:
    """The model of the checks below, made and probed."""
    if subject.on_gpu:
        torch.cuda.reset_peak_memory_stats(subject.device)
    policy = subject.policy
    on_gpu, paths = subject.on_gpu, policy.paths
    found = results.Model(
        parameters=_base_parameters(policy),
        adapter_parameters=sum(p.numel() for p in policy.trainable.values()),
        build_seconds=subject.build_seconds,
        probe_seconds=subject.probe_seconds,
        held_bytes=torch.cuda.memory_allocated(subject.device) if on_gpu else None,
        peak_bytes=torch.cuda.max_memory_allocated(subject.device) if on_gpu else None,
        packed=paths.packed,
        shared_prefix=paths.shared_prefix,
        graphs=paths.graphs if on_gpu else None,
        copy_from_rows=paths.copy_from_rows,
    )
    return found, paths.reason


def _base_parameters(policy: Policy) -> int:
    """Their number; a quantized weight holds two in each byte."""
    layers = nf4_layers(policy.model)
    quantized = {id(layer.weight): layer.in_features * layer.out_features for layer in layers}
    frozen = [p for p in policy.model.parameters() if not p.requires_grad]
    return sum(quantized.get(id(p), p.numel()) for p in frozen)


def _most_seeds(subject: Subject) -> int:
    return _SEEDS_GPU if subject.on_gpu else _SEEDS_CPU


def probe(subject: Subject) -> tuple[results.Probe, str | None]:
    """As many seeds as the time allows."""
    policy, until = subject.policy, time.monotonic() + _PROBE_SECONDS
    packed, prefix, refusals, seeds = [], [], [], 0
    policy.model.eval()
    while seeds == 0 or (seeds < _most_seeds(subject) and time.monotonic() < until):
        with torch.no_grad():
            packed.append(packing_differences(policy, seed=seeds)[0].abs().cpu())
            prefix.append(sampling_differences(plainly(policy), seed=seeds).abs())
        if reason := probe_paths(policy, seed=seeds).reason:
            refusals.append(reason)
        seeds += 1
    found = results.Probe(
        seeds=seeds,
        passed=seeds - len(refusals),
        packed_mean=float(torch.cat(packed).mean()),
        packed_worst_mean=max(float(each.mean()) for each in packed),
        packed_max=float(torch.cat(packed).max()),
        prefix_mean=float(torch.cat(prefix).mean()),
        prefix_worst_mean=max(float(each.mean()) for each in prefix),
        prefix_max=float(torch.cat(prefix).max()),
    )
    return found, f"for {len(refusals)} of {seeds} seeds: {refusals[0]}" if refusals else None
