"""Out of memory: the work goes on in smaller pieces, with the same result, or ends with a remedy."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.types import UpdateResult
from pgrpo_cli.errors import TrainingError
from pgrpo_cli.model.oom import Piece, TokenBudget, in_pieces
from pgrpo_cli.model.policy import Paths, Policy
from pgrpo_cli.model.rollout.batching import cut_batches, rollout_budget
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.update.policy_update import policy_update, update_budget
from pgrpo_cli.pretrained.memory import release_caches
from pgrpo_cli.recipe.schema import Recipe
from tests.support.policies import VOCABULARY, made_up_rollouts, make_prompts, randomize_adapter, tiny_policy
from tests.support.recipes import changed
from tests.support.small_device import backward_limit, forward_limit

PLAIN = Paths(shared_prefix=False, packed=False)
# Rows of 11 + 2 + 6 = 19, 4 + 4 + 0 = 8 and 9 + 5 + 1 = 15 tokens: one micro-batch of 3 · 19 = 57.
PROMPT_LENGTHS, LENGTHS_N = (11, 4, 9), (3, 7, 5, 1, 6, 2)


@pytest.fixture(autouse=True)
def nothing_is_kept() -> None:
    """What policies of other tests still keep would be given back here."""
    release_caches()


class Budget(TokenBudget):
    """Remembers what it tells."""

    def __init__(self, tokens: int) -> None:
        self.told: list[str] = []
        super().__init__(tokens, "pieces", "Buy memory.", self.told.append)


def slices(items: Sequence[int], tokens: int) -> Iterator[Piece[list[int]]]:
    """Pieces of items that take ten tokens each."""
    size = max(1, tokens // 10)
    for start in range(0, len(items), size):
        part = list(items[start : start + size])
        yield Piece(part, part, 10 * len(part))


def limited(most: int, calls: list[list[int]] | None = None) -> Any:
    """A computation that holds at most so many items."""

    def compute(items: list[int]) -> list[int]:
        if calls is not None:
            calls.append(items)
        if len(items) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return items

    return compute


def test_what_does_not_fit_is_repeated_in_halves_and_the_budget_stays_low() -> None:
    budget, calls = Budget(80), []  # type: ignore[var-annotated]
    results = list(in_pieces(range(10), slices, limited(3, calls), budget))
    # 8 and 4 items do not fit, 2 do: from then on two at a time.
    assert calls == [[*range(8)], [0, 1, 2, 3], [0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert [n for items in results for n in items] == list(range(10))
    assert budget.tokens == 20
    assert budget.told == [f"out of memory; pieces now hold at most {n} tokens" for n in (40, 20)]


def test_a_budget_far_above_the_work_is_halved_until_it_cuts_it() -> None:
    budget = Budget(16_000)
    assert len(list(in_pieces(range(10), slices, limited(6), budget))) == 2
    # 16000 / 2^8 = 62.5 is the first below the 100 tokens that did not fit; it holds 6 items.
    assert (budget.tokens, len(budget.told)) == (62, 1)


def test_nothing_is_told_while_all_fits() -> None:
    budget = Budget(40)
    assert list(in_pieces(range(10), slices, limited(4), budget)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (budget.tokens, budget.told) == (40, [])


def test_memory_that_can_be_spared_is_given_back_before_the_budget_is_lowered() -> None:
    room, budget, calls = [3], Budget(80), []  # type: ignore[var-annotated]

    def spare() -> bool:
        room[0] += 2
        return True

    def compute(items: list[int]) -> list[int]:
        return limited(room[0], calls)(items)

    results = list(in_pieces(range(8), slices, compute, budget, spare))
    # 8 items fit neither at once nor with 2 more; 4 then do. What can be spared is asked for once a piece.
    assert calls == [[*range(8)], [*range(8)], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert results == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert budget.tokens == 40 and len(budget.told) == 1


def test_what_fits_once_memory_is_spared_costs_no_budget() -> None:
    held, budget = [True], Budget(40)

    def spare() -> bool:
        found, held[0] = held[0], False
        return found

    def compute(items: list[int]) -> list[int]:
        computed = limited(0 if held[0] else 4)(items)
        held[0] = True
        return computed  # type: ignore[no-any-return]

    results = list(in_pieces(range(10), slices, compute, budget, spare))
    assert results == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (budget.tokens, budget.told) == (40, [])


def test_what_does_not_fit_alone_ends_with_the_remedy() -> None:
    with pytest.raises(TrainingError, match="one completion with its prompt, 10 tokens") as caught:
        list(in_pieces(range(4), slices, limited(0), Budget(40)))
    assert caught.value.remedy == "Buy memory."


def test_other_errors_pass() -> None:
    def broken(items: list[int]) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(in_pieces(range(4), slices, broken, Budget(40)))


def test_a_failed_attempt_holds_nothing_while_it_is_repeated() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def compute(items: list[int]) -> int:
        assert [ref() for ref in held] == [None] * len(held)
        activations = torch.zeros(len(items))
        held.append(weakref.ref(activations))
        if len(items) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return len(items)

    gc.disable()
    try:
        assert list(in_pieces(range(2), slices, compute, Budget(40))) == [1, 1]
    finally:
        gc.enable()
    assert len(held) == 3


def _recipe(**values: Any) -> Recipe:
    return Recipe.model_validate(
        changed(train__max_grad_norm=1e9, **{"train__tokens_per_micro_batch": 64, **values})
    )


def _update(
    policy: Policy, recipe: Recipe, budget: TokenBudget | None = None
) -> tuple[UpdateResult, torch.Tensor]:
    """One update on made-up rollouts: its result, and the adapter's change, which is minus the gradient."""
    rollouts = made_up_rollouts(PROMPT_LENGTHS, LENGTHS_N)
    # Near what the policy gives them: far away the ratio, and with it the gradient, would be next to nothing.
    sampled_N_T = torch.full(rollouts.sampling_logprobs_N_T.shape, -math.log(VOCABULARY))
    rollouts = replace(rollouts, sampling_logprobs_N_T=sampled_N_T)
    advantages = compute_advantages(
        (0.1, 0.9, 0.4, 1.5, 0.2, 0.8), list("aabbaa"), num_generations=2, estimator="dr_grpo"
    )
    before = [p.detach().clone() for p in policy.trainable.values()]
    optimizer = torch.optim.SGD(policy.trainable.values(), lr=1.0)
    result = policy_update(policy, optimizer, rollouts, advantages, recipe, step=3, budget=budget)
    changes = zip(policy.trainable.values(), before, strict=True)
    return result, torch.cat([(p.detach() - old).flatten() for p, old in changes])


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("limit", [forward_limit, backward_limit], ids=["forward", "backward"])
@pytest.mark.parametrize("paths", [Paths(), PLAIN], ids=["packed", "padded"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
def test_an_update_that_runs_out_of_memory_has_the_same_gradient(
    beta: float, limit: Any, paths: Paths, checkpointing: bool
) -> None:
    recipe = _recipe(loss__beta=beta)

    def updated(limit: AbstractContextManager[Any], policy: Policy, budget: TokenBudget | None) -> Any:
        if checkpointing:
            policy.model.gradient_checkpointing_enable({"use_reentrant": False})
        with limit:
            return _update(policy, recipe, budget)

    whole, expected = updated(nullcontext(), replace(tiny_policy(), paths=paths), None)
    policy, told = replace(tiny_policy(), paths=paths), list[str]()
    budget = update_budget(recipe.train, told.append)
    # Below what the whole step takes (57 tokens packed), above the longest completion alone (11 + 7).
    cut, change = updated(limit(policy, 20), policy, budget)
    assert expected.norm() > 1e-6
    torch.testing.assert_close(change, expected, atol=1e-10, rtol=0)
    assert cut.loss == pytest.approx(whole.loss, abs=1e-10)
    assert cut.metrics == pytest.approx(whole.metrics, abs=1e-10)
    assert budget.tokens < recipe.train.tokens_per_micro_batch
    assert told[-1] == f"out of memory; micro-batches now hold at most {budget.tokens} tokens"


def test_what_rollouts_keep_is_given_back_before_anything_is_cut() -> None:
    policy, told = tiny_policy(), list[str]()

    def full(*_: Any) -> None:
        if policy.workspace.bytes():
            raise torch.OutOfMemoryError("CUDA out of memory.")

    settings = SamplingSettings(2, 4)
    update, rollout = update_budget(_recipe().train, told.append), rollout_budget(settings, told.append)
    handle = policy.decoder.layers[-1].register_forward_pre_hook(full)
    try:
        for work in (
            lambda: _update(policy, _recipe(), update),
            lambda: sample(policy, make_prompts((5, 3)), settings, seed=0, budget=rollout),
        ):
            policy.workspace.buffers.empty("keys.0", (4,), torch.zeros(0))
            work()
            assert policy.workspace.bytes() == 0
    finally:
        handle.remove()
    assert told == []


def test_the_failing_pass_is_late_enough_to_leave_gradients_behind() -> None:
    """What the test above protects against: backward() itself would have left the last layer's gradients."""
    policy = tiny_policy()
    hidden = policy.decoder(input_ids=torch.ones(1, 30, dtype=torch.long)).last_hidden_state
    assert hidden.requires_grad
    with backward_limit(policy, 20) as seen, pytest.raises(torch.OutOfMemoryError):
        policy.decoder(input_ids=torch.ones(1, 30, dtype=torch.long)).last_hidden_state.sum().backward()
    assert seen == [30]
    with_gradient = [name for name, p in policy.trainable.items() if p.grad is not None]
    assert {name.split(".layers.")[1][0] for name in with_gradient} == {"1"}


def test_the_lowered_budget_serves_the_next_update_at_once() -> None:
    policy = tiny_policy()
    randomize_adapter(policy)
    told: list[str] = []
    budget = update_budget(_recipe().train, told.append)
    with forward_limit(policy, 40) as seen:
        _update(policy, _recipe(), budget)
        # Of 64 tokens 57 do not fit; 32 hold the row of 19, and then those of 15 and 8, padded to 15.
        assert (seen, told) == ([57, 19, 30], ["out of memory; micro-batches now hold at most 32 tokens"])
        seen.clear()
        _update(policy, _recipe(), budget)
    assert (seen, len(told)) == ([19, 30], 1)


def test_an_update_whose_completions_do_not_fit_alone_ends_with_a_remedy() -> None:
    policy = tiny_policy()
    before = [p.detach().clone() for p in policy.trainable.values()]
    # 11 prompt tokens and 6 of the longer completion: 17.
    with forward_limit(policy, 16), pytest.raises(TrainingError, match="its prompt, 17 tokens") as caught:
        _update(policy, _recipe())
    assert "train.gradient_checkpointing" in str(caught.value.remedy)
    assert all(torch.equal(p, old) for p, old in zip(policy.trainable.values(), before, strict=True))


PROMPTS = make_prompts((12, 5, 9, 3))


@pytest.mark.parametrize("paths", [Paths(), PLAIN], ids=["shared", "plain"])
@pytest.mark.parametrize("most", [44, 14], ids=["between the prompts", "within a prompt"])
def test_sampling_that_runs_out_of_memory_gives_the_same_completions(paths: Paths, most: int) -> None:
    policy = replace(tiny_policy(), paths=paths)
    settings = SamplingSettings(4, 8, tokens_per_batch=300)
    whole = sample(policy, PROMPTS, settings, seed=3)
    told: list[str] = []
    budget = rollout_budget(settings, told.append)
    with forward_limit(policy, most) as seen:
        cut = sample(policy, PROMPTS, settings, seed=3, budget=budget)
    assert max(seen) > most
    assert torch.equal(cut.completion_ids_N_T, whole.completion_ids_N_T)
    assert torch.equal(cut.completion_mask_N_T, whole.completion_mask_N_T)
    torch.testing.assert_close(cut.sampling_logprobs_N_T, whole.sampling_logprobs_N_T)
    assert cut.texts_N == whole.texts_N
    assert told[-1] == f"out of memory; rollout batches now hold at most {budget.tokens} tokens"


def test_sampling_whose_prompt_does_not_fit_ends_with_a_remedy() -> None:
    policy = tiny_policy()
    with forward_limit(policy, 11), pytest.raises(TrainingError, match="its prompt, 20 tokens") as caught:
        sample(policy, PROMPTS, SamplingSettings(4, 8), seed=3)
    assert "data.max_prompt_tokens" in str(caught.value.remedy)


def test_a_budget_below_one_prompt_still_decodes_it_whole_until_memory_runs_out() -> None:
    settings = SamplingSettings(4, 8, tokens_per_batch=10)

    def batches(tokens: int) -> list[tuple[list[int], list[int], int]]:
        pieces = cut_batches(PROMPTS, settings, range(8), tokens)
        return [(list(p.content.prompts), list(p.content.generations), p.tokens) for p in pieces]

    # 12 + 4 · 8 and 5 + 4 · 8 tokens.
    assert batches(10) == [([0], [0, 1, 2, 3], 44), ([1], [0, 1, 2, 3], 37)]
    assert batches(5) == [([i], [g], n + 8) for i, n in ((0, 12), (1, 5)) for g in range(4)]
    roomy = SamplingSettings(4, 8, tokens_per_batch=100)
    # 28 tokens hold two completions of the first prompt, and what is left of the second one's.
    pieces = list(cut_batches(PROMPTS, roomy, [0, 1, 2, 3, 5, 7], 28))
    assert [(list(p.content.prompts), list(p.content.generations)) for p in pieces] == [
        ([0], [0, 1]),
        ([0], [2, 3]),
        ([1], [1, 3]),
    ]
    assert [p.completions for p in pieces] == [[0, 1], [2, 3], [5, 7]]
