"""Rollouts over a shared prefix against transformers' own generation and a teacher-forced recomputation."""

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from pgrpo_cli.model.policy import Paths
from pgrpo_cli.model.rollout.batching import batches_by_tokens
from pgrpo_cli.model.rollout.decode import decode_step, prefill
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollout.shared_prefix import attending_to_shared_prefix
from pgrpo_cli.model.update.packing import pack, whole_rows
from pgrpo_cli.model.update.padded import padded_logprobs
from tests.support.policies import ARCHITECTURES, HYBRID, make_prompts, tiny_policy

PROMPTS = make_prompts((12, 5, 9, 3))
PLAIN = Paths(shared_prefix=False, packed=False)


def _generated(policy, prompt, tokens):
    ids = torch.tensor([prompt.input_ids])
    with torch.no_grad():
        output = policy.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False
        )
    return output[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_completions_equal_those_of_transformers(architecture):
    policy = tiny_policy(architecture, torch.float32)
    policy.model.eval()
    rollouts = sample(policy, PROMPTS, SamplingSettings(2, 16, greedy=True), seed=0)
    for n, length in enumerate(rollouts.lengths_N):
        expected = _generated(policy, PROMPTS[n // 2], 16)
        assert rollouts.completion_ids_N_T[n, :length].tolist() == expected
        assert rollouts.finished_N[n] == (expected[-1] in policy.stop_token_ids)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("paths", [Paths(), PLAIN], ids=["shared", "plain"])
def test_recorded_log_probabilities_equal_a_teacher_forced_recomputation(architecture, paths):
    policy = replace(tiny_policy(architecture, torch.float32), paths=paths)
    policy.model.eval()
    rollouts = sample(policy, PROMPTS, SamplingSettings(3, 10, temperature=0.7), seed=0)
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    with torch.no_grad():
        recomputed_M = padded_logprobs(policy, packed, temperature=0.7)
    recorded_M = rollouts.sampling_logprobs_N_T[packed.completions_N[packed.row_M], packed.column_M]
    torch.testing.assert_close(recorded_M, recomputed_M, atol=1e-4, rtol=0)


def test_both_paths_sample_the_same_completions():
    policy = tiny_policy("llama", torch.float32)
    settings = SamplingSettings(3, 10)
    shared = sample(policy, PROMPTS, settings, seed=5)
    plain = sample(replace(policy, paths=PLAIN), PROMPTS, settings, seed=5)
    assert torch.equal(shared.completion_ids_N_T, plain.completion_ids_N_T)
    assert shared.texts_N == plain.texts_N


@pytest.mark.parametrize("paths", [Paths(), PLAIN], ids=["shared", "plain"])
def test_a_prompt_that_a_step_has_twice_gets_other_completions(paths):
    policy = replace(tiny_policy("llama", torch.float32), paths=paths)
    settings, (first, second) = SamplingSettings(3, 10), PROMPTS[:2]
    once = sample(policy, [first, second], settings, seed=5)
    twice = sample(policy, [first, second, first], settings, seed=5)
    # The first time it has those that it has alone.
    assert twice.texts_N[:6] == once.texts_N
    assert len(set(twice.texts_N)) == 9


def test_settings_that_a_model_brings_change_nothing_on_the_plain_path():
    """A repetition penalty and a least length, as the generation configs of some models have them."""
    policy = replace(tiny_policy("llama", torch.float32), paths=PLAIN)
    expected = sample(policy, PROMPTS, SamplingSettings(3, 10), seed=5)
    for model in (policy.model, policy.model.get_base_model()):
        model.generation_config = GenerationConfig(
            eos_token_id=1, pad_token_id=1, repetition_penalty=1.5, min_new_tokens=8, no_repeat_ngram_size=1
        )
    found = sample(policy, PROMPTS, SamplingSettings(3, 10), seed=5)
    assert torch.equal(found.completion_ids_N_T, expected.completion_ids_N_T)
    assert torch.equal(found.sampling_logprobs_N_T, expected.sampling_logprobs_N_T)
    assert policy.model.get_base_model().generation_config.repetition_penalty == 1.5


def test_a_recurrent_model_samples_on_the_plain_path():
    policy = replace(tiny_policy("qwen3_next", torch.float32, **HYBRID), paths=PLAIN)
    policy.model.eval()
    rollouts = sample(policy, PROMPTS, SamplingSettings(2, 8, greedy=True), seed=0)
    for n, length in enumerate(rollouts.lengths_N):
        assert rollouts.completion_ids_N_T[n, :length].tolist() == _generated(policy, PROMPTS[n // 2], 8)


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 10_000])
def test_completions_do_not_depend_on_the_batch(tokens_per_batch):
    policy = tiny_policy("llama", torch.float64)
    whole = sample(policy, PROMPTS, SamplingSettings(2, 12), seed=3)
    cut = sample(policy, PROMPTS, SamplingSettings(2, 12, tokens_per_batch=tokens_per_batch), seed=3)
    assert torch.equal(whole.completion_ids_N_T, cut.completion_ids_N_T)
    torch.testing.assert_close(whole.sampling_logprobs_N_T, cut.sampling_logprobs_N_T)
    alone = sample(policy, PROMPTS[2:3], SamplingSettings(2, 12), seed=3)
    width = alone.completion_ids_N_T.shape[1]
    assert torch.equal(whole.completion_ids_N_T[4:6, :width], alone.completion_ids_N_T)


def test_products_above_the_largest_float16_are_scaled_before_they_overflow():
    policy = tiny_policy("llama", torch.float16)
    for layer in policy.decoder.layers:
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.data.normal_(std=20.0)
    rollouts = sample(policy, PROMPTS, SamplingSettings(2, 6), seed=3)
    assert rollouts.sampling_logprobs_N_T.isfinite().all()


def test_completions_end_at_their_first_stop_token_and_leave_the_batch():
    policy = tiny_policy("llama", torch.float64)
    # Every second token of the vocabulary stops, so that prompts finish at different times.
    policy.model.generation_config.eos_token_id = list(range(1, policy.config.vocab_size, 8))
    rollouts = sample(policy, PROMPTS, SamplingSettings(2, 30), seed=1)
    assert len(set(rollouts.lengths_N)) > 2
    for n, length in enumerate(rollouts.lengths_N):
        stops = [int(t) in policy.stop_token_ids for t in rollouts.completion_ids_N_T[n, :length]]
        assert stops == [False] * (length - 1) + [bool(rollouts.finished_N[n])]
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    with torch.no_grad():
        recomputed_M = padded_logprobs(policy, packed, temperature=1.0).float()
    recorded_M = rollouts.sampling_logprobs_N_T[packed.completions_N[packed.row_M], packed.column_M]
    torch.testing.assert_close(recorded_M, recomputed_M, atol=1e-5, rtol=0)


def test_a_shared_prefill_gives_the_logits_of_separate_ones():
    policy = tiny_policy("llama", torch.float64)
    policy.model.eval()
    tokens = torch.tensor([7, 9, 11, 13])
    with torch.no_grad():
        logits, cache = prefill(policy, PROMPTS[:2], num_generations=2, capacity=4)
        with attending_to_shared_prefix(policy.config, cache):
            after = decode_step(policy, tokens, cache, reach=1)
        for n, token in enumerate(tokens.tolist()):
            ids = torch.tensor([[*PROMPTS[n // 2].input_ids, token]])
            expected = policy.model(input_ids=ids).logits[0]
            torch.testing.assert_close(logits[n // 2], expected[-2], atol=1e-10, rtol=0)
            torch.testing.assert_close(after[n], expected[-1], atol=1e-10, rtol=0)


def test_prompts_are_batched_longest_first_within_the_budget():
    # (prompt + 2 * 4) tokens a prompt: 20, 13, 17, 11 for lengths 12, 5, 9, 3.
    settings = SamplingSettings(2, 4, tokens_per_batch=40)
    assert list(batches_by_tokens(PROMPTS, settings)) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("paths", [Paths(), PLAIN], ids=["shared", "plain"])
def test_each_batch_is_seen_with_its_places_before_the_next_one_is_decoded(paths):
    policy = replace(tiny_policy("llama", torch.float32), paths=paths)
    forwards = []
    policy.model.get_base_model().model.register_forward_hook(lambda *_: forwards.append(1))
    seen = []
    settings = SamplingSettings(2, 4, tokens_per_batch=40)
    rollouts = sample(
        policy,
        PROMPTS,
        settings,
        seed=5,
        on_batch=lambda rows, texts: seen.append((len(forwards), rows, texts)),
    )
    # Two batches, of prompts 0 and 2 and of prompts 1 and 3; at most one forward pass a token of each.
    assert [rows for _, rows, _ in seen] == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert 0 < seen[0][0] < seen[1][0] == len(forwards) <= 2 * (1 + 4)
    completions = rollouts.completions()
    for _, rows, texts in seen:
        assert texts == [completions[n] for n in rows]
    assert len({completion.text for completion in completions}) > 1
    assert [completion.messages for completion in completions[::2]] == [prompt.messages for prompt in PROMPTS]
