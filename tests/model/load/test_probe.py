"""The probe of the fast paths: right ones pass, wrong ones do not, for every seed and in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.model.load import probe as probe_module
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.probe import probe
from pgrpo_cli.model.load.twin import twin
from pgrpo_cli.model.policy import Paths, Policy
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollout.shared_prefix import SharedPrefixCache
from pgrpo_cli.model.update import logprobs, packing
from pgrpo_cli.model.update.packing import Packed
from pgrpo_cli.model.update.padded import padded_logprobs
from pgrpo_cli.recipe.load import load_recipe
from tests.support.policies import ARCHITECTURES, GEMMA3N, HYBRID, make_prompts, tiny_policy

MISTRAL: dict[str, Any] = {"sliding_window": 6}
"""A window without `layer_types`: every layer has it."""


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "mistral"])
def test_exact_models_take_the_fast_paths(architecture: str) -> None:
    changes = MISTRAL if architecture == "mistral" else {}
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        paths = probe(tiny_policy(architecture, dtype, **changes))
        assert (paths.packed, paths.shared_prefix, paths.reason) == (True, True, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recurrent_layers_take_the_plain_path(dtype: torch.dtype) -> None:
    paths = probe(tiny_policy("qwen3_next", dtype, **HYBRID))
    assert (paths.packed, paths.shared_prefix) == (False, False)
    assert paths.reason


MINIMAX: dict[str, Any] = {
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "layer_types": ["linear_attention", "full_attention"],
    "block_size": 8,
}
RECURRENT_GEMMA: dict[str, Any] = {
    "block_types": ["recurrent", "attention"],
    "attention_window_size": 6,
    "lru_width": 32,
    "logits_soft_cap": 0.5,
}


@pytest.mark.parametrize(
    ("architecture", "changes"), [("minimax", MINIMAX), ("recurrent_gemma", RECURRENT_GEMMA)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_on_the_left_is_left_out_where_it_changes_what_follows(
    architecture: str, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    policy = tiny_policy(architecture, dtype, **changes)
    paths = probe(policy)
    assert (paths.shared_prefix, paths.left_padding) == (False, False)
    rollouts = sample(
        replace(policy, paths=paths), make_prompts((17, 9, 17)), SamplingSettings(2, 12), seed=1
    )
    packed = packing.pack(packing.whole_rows(rollouts), rollouts, pad_token_id=1)
    with torch.no_grad():
        expected = logprobs.scatter(padded_logprobs(policy, packed, temperature=1.0), packed)
    difference = (rollouts.sampling_logprobs_N_T - expected[packed.completions_N.argsort()]).abs()
    assert difference.max() < (1e-4 if dtype == torch.float32 else 0.2)


def test_padding_on_the_left_stays_where_it_changes_nothing() -> None:
    assert probe(tiny_policy("qwen3_next", torch.float32, **HYBRID)).left_padding


@pytest.mark.parametrize("architecture", ["stablelm", "nemotron"])
def test_decoders_that_pass_no_arguments_on_share_prefixes_too(architecture: str) -> None:
    paths = probe(tiny_policy(architecture, torch.float32))
    assert (paths.packed, paths.shared_prefix, paths.reason) == (True, True, None)


def no_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions go on over the row, instead of restarting behind the prompt."""
    _packs_as(monkeypatch, lambda packed: torch.arange(packed.input_ids_R_L.shape[1]))


def off_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions stand one position too far."""
    _packs_as(monkeypatch, lambda packed: packed.position_ids_R_L + (packed.segments_R_L > 0))


def no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Completions see those before them in the row."""
    whole = packing.attention_mask

    def unsegmented(packed: Packed, *rest: Any) -> Any:
        return whole(replace(packed, segments_R_L=packed.segments_R_L.clamp(max=0)), *rest)

    monkeypatch.setattr(logprobs, "attention_mask", unsegmented)


def no_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packed mask and the shared prefix know of no window."""
    whole, visible = packing.attention_mask, SharedPrefixCache._visible_P_L

    def unlimited(packed: Packed, config: Any, *rest: Any) -> Any:
        kept, config.sliding_window = config.sliding_window, 1000
        try:
            return whole(packed, config, *rest)
        finally:
            config.sliding_window = kept

    monkeypatch.setattr(logprobs, "attention_mask", unlimited)
    monkeypatch.setattr(SharedPrefixCache, "_visible_P_L", lambda cache, window: visible(cache, None))


def window_over_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window counts places of the row, in which a prompt's later completions are far from it."""
    whole = packing.attention_mask

    def of_places(packed: Packed, *rest: Any) -> Any:
        places = torch.arange(packed.input_ids_R_L.shape[1]).expand_as(packed.input_ids_R_L)
        return whole(replace(packed, position_ids_R_L=places), *rest)

    monkeypatch.setattr(logprobs, "attention_mask", of_places)


def _packs_as(monkeypatch: pytest.MonkeyPatch, positions: Callable[[Packed], torch.Tensor]) -> None:
    whole = packing.pack

    def wrong(*arguments: Any, **options: Any) -> Packed:
        packed = whole(*arguments, **options)
        return replace(packed, position_ids_R_L=positions(packed).expand_as(packed.input_ids_R_L))

    monkeypatch.setattr(probe_module, "pack", wrong)


WRONG = [no_restart, off_by_one, no_mask]
WINDOWS = [no_window, window_over_the_row]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_a_wrong_row_is_refused_in_bfloat16(
    architecture: str, wrong: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    _refuses(tiny_policy(architecture, torch.bfloat16), seeds=4)


@pytest.mark.parametrize("wrong", WINDOWS)
@pytest.mark.parametrize("architecture", ["gemma3_text", "mistral"])
@pytest.mark.parametrize("window", [6, 512])
def test_a_wrong_window_is_refused_however_long_it_is(
    window: int,
    architecture: str,
    wrong: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A window of 512 tokens is longer than the probe's prompts; the twin has a shorter one."""
    wrong(monkeypatch)
    _refuses(tiny_policy(architecture, torch.bfloat16, sliding_window=window), seeds=4)


def _refuses(policy: Policy, seeds: int) -> None:
    for seed in range(seeds):
        paths = probe(policy, seed=seed)
        assert not paths.packed, f"seed {seed}"
        assert paths.reason
        assert "log-probabilities" in paths.reason


def test_a_wrong_window_of_a_shared_prefix_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    visible = SharedPrefixCache._visible_P_L
    monkeypatch.setattr(SharedPrefixCache, "_visible_P_L", lambda cache, window: visible(cache, None))
    paths = probe(tiny_policy("gemma3_text", torch.bfloat16, sliding_window=512))
    assert (paths.packed, paths.shared_prefix) == (True, False)
    assert paths.reason is not None
    assert paths.reason.startswith("log-probabilities over a shared prefix are off by")
    assert paths.reason.endswith("in float32")


def test_the_twin_has_a_layer_of_every_kind_and_short_windows() -> None:
    kinds = ["sliding_attention"] * 3 + ["full_attention"] * 2
    policy = tiny_policy(
        "gemma3_text", torch.bfloat16, num_hidden_layers=5, layer_types=kinds, sliding_window=512
    )
    small = twin(policy)
    # The first layer of the last kind is the fourth.
    assert small.config.layer_types == kinds[:4]
    assert (small.config.num_hidden_layers, small.config.sliding_window) == (4, 8)
    assert small.dtype == torch.float32
    # The model itself is as it was.
    assert (policy.config.num_hidden_layers, policy.config.sliding_window) == (5, 512)
    assert len(twin(tiny_policy("llama", torch.bfloat16, num_hidden_layers=4)).decoder.layers) == 2


KINDS = ["sliding_attention"] * 2 + ["full_attention"]


@pytest.mark.parametrize("architecture", ["gemma3n_text", "gemma4_text"])
def test_the_twin_shares_keys_among_layers_as_the_model_does(architecture: str) -> None:
    """The last three of six layers take the keys of the first three."""
    changes = {"layer_types": 2 * KINDS, "num_kv_shared_layers": 3, "activation_sparsity_pattern": [0.0] * 6}
    policy = tiny_policy(architecture, torch.bfloat16, **{**GEMMA3N, "num_hidden_layers": 6, **changes})
    small = twin(policy).config
    assert (small.num_hidden_layers, small.num_kv_shared_layers, small.layer_types) == (6, 3, 2 * KINDS)
    assert small.vocab_size_per_layer_input == small.vocab_size
    assert probe(policy).packed


def test_the_twin_has_its_adapter_where_the_policy_has_it() -> None:
    policy = tiny_policy("llama", torch.bfloat16, target_modules=["q_proj", "v_proj"])
    names = {name.split(".")[-4] for name in twin(policy).trainable}
    assert names == {"q_proj", "v_proj"}


def test_a_model_without_a_twin_is_not_trusted_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(policy: Policy) -> Policy:
        raise ValueError("such a model needs all of its layers\nor more")

    monkeypatch.setattr(probe_module, "twin", refused)
    paths = probe(tiny_policy("llama", torch.bfloat16))
    assert (paths.packed, paths.shared_prefix) == (False, False)
    assert paths.reason == "it has no small copy: ValueError: such a model needs all of its layers"
    assert probe(tiny_policy("llama", torch.float32)).reason is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_window_of_another_name_is_found(dtype: torch.dtype) -> None:
    """GPT-Neo applies its window to places in the row; 32 tokens are more than the probe's rows have."""
    settings = {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4}
    policy = tiny_policy("gpt_neo", dtype, window_size=32, attn_implementation="eager", **settings)
    paths = probe(policy)
    assert not paths.packed
    assert paths.reason is not None
    assert "float32" in paths.reason or "neighbour" in paths.reason


def test_the_model_itself_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the real weights only: the twin is exact, the mean over the model's tokens is not."""
    policy = tiny_policy("llama", torch.bfloat16)
    exact = probe_module.packed_logprobs

    def broken(of: Policy, *arguments: Any, **options: Any) -> torch.Tensor:
        return exact(of, *arguments, **options) + (2.0 if of is policy else 0.0)

    monkeypatch.setattr(probe_module, "packed_logprobs", broken)
    assert probe(policy).reason == "packed log-probabilities are off by 2 in the mean in bfloat16"


def _smollm2(tmp_path: Path) -> Policy:
    recipe = load_recipe(Path(__file__).parents[3] / "recipes" / "quickstart.yaml")
    return load_policy(recipe, recipe_dir=tmp_path, paths=Paths())


@pytest.mark.slow
def test_smollm2_passes_for_twenty_seeds(tmp_path: Path) -> None:
    policy = _smollm2(tmp_path)
    assert policy.dtype == torch.bfloat16
    for seed in range(20):
        assert probe(policy, seed=seed).reason is None, f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
def test_smollm2_with_a_wrong_row_fails_for_twenty_seeds(
    wrong: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    _refuses(_smollm2(tmp_path), seeds=20)
