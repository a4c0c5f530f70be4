"""Decoding against one forward pass a token, and steps that are replayed instead of run."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgrpo_cli.model.rollout.rounding import COARSE, EXACT, Rounding
from pgrpo_cli.model.rollout.sampling import SamplingSettings, next_tokens
from pgrpo_cli.model.rollout.workspace import Workspace
from tests.support.decoding import assert_same, decoded, stopping_policy, uniforms_of
from tests.support.policies import ARCHITECTURES, make_prompts, randomize_adapter
from tests.support.replay import BrokenRecorder, ReplayRecorder, ShortRecorder

# Nine prompts pass the buckets 8, 6, 4, 3, 2 and 1, where seven or five need filling up.
PROMPTS = make_prompts((12, 5, 9, 3, 7, 4, 10, 2, 6))
# Looks that are rare enough to be missed and frequent enough to shrink the batch.
COARSE_SOON = Rounding(exact=False, check_every=2)
ROUNDINGS = [COARSE, COARSE_SOON, Rounding(exact=False, check_every=5), Rounding(exact=True, check_every=3)]


@cache
def _llama():
    """One policy for many examples, which set their own stop tokens."""
    return stopping_policy()


@torch.no_grad()
def _one_by_one(policy, prompts, sampling):
    """Every completion on its own: the whole model over prompt and completion, for each token again."""
    found = []
    for n, uniform_T in enumerate(uniforms_of(prompts, sampling)):
        ids, logprobs = list(prompts[n // sampling.num_generations].input_ids), []
        for uniform in uniform_T:
            logits = policy.model(input_ids=torch.tensor([ids])).logits[:, -1]
            token, logprob = next_tokens(logits, uniform.view(1), sampling)
            ids.append(token.item())
            logprobs.append(logprob.item())
            if ids[-1] in policy.stop_token_ids:
                break
        found.append((ids[-len(logprobs) :], torch.tensor(logprobs)))
    return found


@pytest.mark.parametrize("rounding", [EXACT, *ROUNDINGS], ids=str)
def test_completions_equal_those_of_one_forward_pass_a_token(rounding):
    policy, sampling = stopping_policy(), SamplingSettings(3, 14, temperature=0.9)
    found = decoded(policy, PROMPTS, sampling, rounding=rounding)
    expected = _one_by_one(policy, PROMPTS, sampling)
    assert len({len(ids) for ids, _ in expected}) > 4
    assert_same(found, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_rounding_changes_no_completion_of_any_architecture(architecture, dtype):
    policy, sampling = stopping_policy(architecture, dtype), SamplingSettings(3, 20)
    expected = decoded(policy, PROMPTS, sampling)
    for rounding in ROUNDINGS:
        assert_same(decoded(policy, PROMPTS, sampling, rounding=rounding), expected, tolerance=2e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3_text"])
def test_rounding_keeps_within_the_error_of_half_precision(architecture, dtype):
    policy = stopping_policy(architecture, dtype, stops=1000)
    sampling = SamplingSettings(3, 12, greedy=True)
    exact = decoded(policy, PROMPTS, sampling)
    coarse = decoded(policy, PROMPTS, sampling, rounding=COARSE_SOON)
    for (ours, our_logprobs), (theirs, their_logprobs) in zip(coarse, exact, strict=True):
        shorter = min(len(ours), len(theirs))
        same = next((t for t in range(shorter) if ours[t] != theirs[t]), shorter)
        torch.testing.assert_close(our_logprobs[:same], their_logprobs[:same], atol=0.1, rtol=0)
        assert same > 0


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=10),
    num_generations=st.integers(1, 4),
    num_tokens=st.integers(1, 24),
    rounding=st.builds(Rounding, exact=st.booleans(), check_every=st.integers(1, 9)),
    stops=st.sampled_from([2, 5, 20, 1000]),
)
@settings(max_examples=40, deadline=None)
def test_completions_do_not_depend_on_shapes_and_looks(lengths, num_generations, num_tokens, rounding, stops):
    policy, prompts = _llama(), make_prompts(lengths)
    policy.model.generation_config.eos_token_id = list(range(1, policy.config.vocab_size, stops))
    sampling = SamplingSettings(num_generations, num_tokens)
    assert_same(decoded(policy, prompts, sampling, rounding=rounding), decoded(policy, prompts, sampling))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings(3, 20),
        SamplingSettings(3, 20, temperature=0.7, top_p=0.9, top_k=40),
        SamplingSettings(3, 20, greedy=True),
    ],
    ids=["plain", "truncated", "greedy"],
)
def test_replayed_steps_draw_what_steps_draw(architecture, sampling):
    policy, recorder = stopping_policy(architecture), ReplayRecorder()
    workspace = Workspace(recorder)
    expected = decoded(policy, PROMPTS, sampling)
    assert_same(decoded(policy, PROMPTS, sampling, rounding=COARSE_SOON, workspace=workspace), expected)
    assert workspace.graphs.failure is None
    assert recorder.replays > recorder.warm_ups > (0 if sampling.greedy else 1)
    # The second time everything has been recorded, which other prompts and uniform numbers do not mind.
    warm_ups, others = recorder.warm_ups, make_prompts((4, 11, 2, 8, 12, 3, 3, 7, 5))
    again = decoded(policy, PROMPTS, sampling, rounding=COARSE_SOON, workspace=workspace)
    assert_same(again, expected)
    assert recorder.warm_ups == warm_ups
    others_again = decoded(policy, others, sampling, 1, rounding=COARSE_SOON, workspace=workspace)
    assert_same(others_again, decoded(policy, others, sampling, 1))


def test_replayed_steps_see_updates_of_the_adapter_and_whether_it_is_on():
    policy, recorder, sampling = stopping_policy(), ReplayRecorder(), SamplingSettings(3, 16)
    how = {"rounding": COARSE, "workspace": Workspace(recorder)}
    tuned = decoded(policy, PROMPTS, sampling, **how)
    with policy.base():
        base = decoded(policy, PROMPTS, sampling, **how)
        assert_same(base, decoded(policy, PROMPTS, sampling))
    assert [ids for ids, _ in base] != [ids for ids, _ in tuned]
    assert recorder.warm_ups == 2
    randomize_adapter(policy, scale=0.6)
    updated = decoded(policy, PROMPTS, sampling, **how)
    assert_same(updated, decoded(policy, PROMPTS, sampling))
    assert [ids for ids, _ in updated] != [ids for ids, _ in tuned]
    assert recorder.warm_ups == 2


def test_weights_that_move_are_recorded_again():
    policy, recorder, sampling = stopping_policy(), ReplayRecorder(), SamplingSettings(2, 10)
    how = {"rounding": COARSE, "workspace": Workspace(recorder)}
    decoded(policy, PROMPTS, sampling, **how)
    for parameter in policy.trainable.values():
        parameter.data = parameter.data * 2
    assert_same(decoded(policy, PROMPTS, sampling, **how), decoded(policy, PROMPTS, sampling))
    assert recorder.warm_ups == 2


def test_larger_batches_move_the_buffers_and_are_recorded_again():
    policy, recorder, sampling = stopping_policy(stops=1000), ReplayRecorder(), SamplingSettings(2, 10)
    workspace = Workspace(recorder)
    how = {"rounding": COARSE, "workspace": workspace}
    for lengths in ((5, 9), (5, 9, 3, 8, 70, 12), (5, 9)):
        prompts = make_prompts(lengths)
        assert_same(decoded(policy, prompts, sampling, **how), decoded(policy, prompts, sampling))
    # The first shapes fit into the buffers of the second ones, but their recording went with the old ones.
    assert recorder.warm_ups == 3
    assert len(workspace.graphs) == 2
    workspace.release()
    assert (len(workspace.graphs), workspace.bytes()) == (0, 0)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_what_an_earlier_batch_left_in_the_buffers_does_no_harm(architecture):
    policy, sampling = stopping_policy(architecture), SamplingSettings(3, 16)
    workspace = Workspace(ReplayRecorder())
    expected = decoded(policy, PROMPTS, sampling)
    how = {"rounding": COARSE_SOON, "workspace": workspace}
    decoded(policy, PROMPTS, sampling, **how)
    for buffer in workspace.buffers._flat.values():
        buffer.fill_(math.nan if buffer.is_floating_point() else 1)
    assert_same(decoded(policy, PROMPTS, sampling, **how), expected)


def test_a_step_that_cannot_be_captured_runs_as_it_is_and_is_told_once():
    policy, recorder, sampling = stopping_policy(), BrokenRecorder(), SamplingSettings(3, 16)
    workspace = Workspace(recorder)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs.*not permitted when stream") as told:
        found = decoded(policy, PROMPTS, sampling, rounding=COARSE_SOON, workspace=workspace)
        decoded(policy, PROMPTS, sampling, rounding=COARSE_SOON, workspace=workspace)
    assert len([w for w in told if "CUDA graphs" in str(w.message)]) == 1
    assert_same(found, decoded(policy, PROMPTS, sampling))
    assert workspace.graphs.failure == "RuntimeError: operation not permitted when stream is capturing"
    assert (recorder.warm_ups, len(workspace.graphs)) == (1, 0)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"),
        RuntimeError("CUDA error: out of memory"),
    ],
    ids=["torch's", "the driver's"],
)
def test_a_capture_without_memory_costs_the_graphs_of_its_batch_only(error):
    policy, sampling = stopping_policy(), SamplingSettings(3, 16)
    recorder = ShortRecorder(error, shortages=2)
    workspace = Workspace(recorder)
    expected = decoded(policy, PROMPTS, sampling)
    for batch, captured in enumerate((0, 0, 1)):
        found = decoded(policy, PROMPTS, sampling, rounding=COARSE, workspace=workspace)
        assert_same(found, expected)
        # One capture is tried a batch; the third one finds memory.
        assert (recorder.tried, len(workspace.graphs), workspace.graphs.failure) == (
            batch + 1,
            captured,
            None,
        )
    assert recorder.replays > 0


def test_after_three_captures_without_memory_no_more_are_tried():
    policy, sampling = stopping_policy(), SamplingSettings(3, 16)
    recorder = ShortRecorder(torch.OutOfMemoryError("CUDA out of memory"), shortages=100)
    workspace = Workspace(recorder)
    expected = decoded(policy, PROMPTS, sampling)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs.*3 captures ran out of memory") as told:
        for _ in range(5):
            assert_same(decoded(policy, PROMPTS, sampling, rounding=COARSE, workspace=workspace), expected)
    assert len([w for w in told if "CUDA graphs" in str(w.message)]) == 1
    assert (recorder.tried, len(workspace.graphs)) == (3, 0)


def test_the_cause_of_a_failed_capture_is_told_rather_than_its_consequence(monkeypatch):
    policy, recorder = stopping_policy(), ReplayRecorder()

    def waits(*arguments):
        try:
            torch.ones(1).item()
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    monkeypatch.setattr("pgrpo_cli.model.rollout.decode.next_tokens", waits_after(next_tokens, waits))
    workspace = Workspace(recorder)
    with pytest.warns(RuntimeWarning):
        decoded(policy, PROMPTS, SamplingSettings(2, 6), rounding=COARSE, workspace=workspace)
    assert workspace.graphs.failure == "RuntimeError: _local_scalar_dense makes the host wait for the device"
    assert replace(policy).workspace is policy.workspace


def waits_after(draw, waits):
    """Draws twice, for the prompts and the step that warms up, waits, and draws on when that is over."""
    calls = []

    def drawn(*arguments):
        calls.append(arguments)
        return waits() if len(calls) == 3 else draw(*arguments)

    return drawn


def test_finished_rows_stop_costing():
    policy, sampling = stopping_policy(stops=4), SamplingSettings(4, 24)
    fed = []
    embed = policy.decoder.get_input_embeddings()
    handle = embed.register_forward_pre_hook(lambda module, inputs: fed.append(inputs[0].shape[0]))
    try:
        found = decoded(policy, PROMPTS, sampling)
    finally:
        handle.remove()
    # A row feeds all its tokens but the last. The batch may keep up to an eighth of rows that have finished.
    needed = sum(len(ids) - 1 for ids, _ in found)
    assert needed <= sum(fed[1:]) <= needed * 8 / 7
    assert sum(fed[1:]) < len(PROMPTS) * 4 * (max(len(ids) for ids, _ in found) - 1) / 2
