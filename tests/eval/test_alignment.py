"""Evaluation: with a scripted sampler, and with a real model under an adapter that does nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import EvalError
from pgrpo_cli.eval import alignment as module
from pgrpo_cli.eval import sampling
from pgrpo_cli.eval.alignment import evaluate_policy, evaluate_target
from pgrpo_cli.eval.sampling import held_out
from pgrpo_cli.eval.targets import eval_target, header_of
from pgrpo_cli.model.rollout.sample import OnBatch
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollouts import Rollouts
from pgrpo_cli.rewards.base import Completion, Score
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.rewards.reward_sum import RewardSum
from pgrpo_cli.seeding import derive_seed
from pgrpo_cli.state.results import read_result
from pgrpo_cli.stats.evaluation import summarise
from pgrpo_cli.stats.intervals import Bootstrap
from pgrpo_cli.stats.result_types import EvalResult, Header
from tests.support.policies import make_prompts, randomize_adapter, tiny_policy
from tests.support.records import prompt
from tests.support.rewards import Awaited, Plain, summed, threads_left, until
from tests.support.runs import add_curve, make_run, recipe_of
from tests.support.small_device import forward_limit

PROMPTS = [prompt(f"{group}-{i}", group) for i in range(20) for group in ("calm", "loud")]
RECIPE = recipe_of(
    eval__num_completions=2,
    eval__temperature=0.5,
    eval__bootstrap_samples=100,
    rollout__max_completion_tokens=6,
    seed=5,
)


class ScriptedPolicy:
    """A policy that only knows whether its adapter is on."""

    def __init__(self) -> None:
        self.adapter_on = True

    @contextmanager
    def base(self) -> Iterator[None]:
        self.adapter_on = False
        yield
        self.adapter_on = True


class Scripted:
    """A reward: 0 for the base model; for the tuned one 0.5 to `loud`, and 0.9 or 1.1 to `calm`."""

    parts = ("value",)
    value_range = None

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        values = [self.worth(c) if c.text.startswith("tuned") else 0.0 for c in completions]
        return [Score(value, {"value": value}) for value in values]

    def worth(self, completion: Completion) -> float:
        if completion.preference_group == "loud":
            return 0.5
        return 1.1 if int(completion.prompt_id.split("-")[1]) % 2 else 0.9


def scripted_kl(policy: Any, rollouts: Rollouts, *, temperature: float, budget: Any) -> list[float]:
    assert policy.adapter_on and temperature == 0.5 and budget.tokens == 4096
    return [0.1] * len(rollouts.texts_N)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, list[str], SamplingSettings, int]]:
    """Replaces sampling; records (adapter on, prompt ids, settings, seed) of each call."""
    recorded: list[tuple[bool, list[str], SamplingSettings, int]] = []

    def scripted(
        policy: Any,
        prompts: Sequence[PreparedPrompt],
        settings: Any,
        *,
        seed: int,
        budget: Any,
        on_batch: OnBatch,
    ) -> Rollouts:
        recorded.append((policy.adapter_on, [p.prompt_id for p in prompts], settings, seed))
        who = "tuned" if policy.adapter_on else "base"
        N = len(prompts) * settings.num_generations
        texts = tuple(f"{who} {p.prompt_id} {g}" for p in prompts for g in range(settings.num_generations))
        mask = torch.ones(N, 4, dtype=torch.bool)
        mask[1::2, 3] = False
        finished = torch.arange(N) % 2 == 1
        return Rollouts(
            tuple(prompts),
            settings.num_generations,
            torch.zeros(N, 4),
            mask,
            torch.zeros(N, 4),
            finished,
            texts,
        )

    monkeypatch.setattr(sampling, "sample", scripted)
    monkeypatch.setattr(sampling, "completion_kl", scripted_kl)
    monkeypatch.setattr(module, "perplexity", lambda policy, text: 7.0 if policy.adapter_on else 6.0)
    return recorded


def header(tmp_path: Path) -> Header:
    return header_of(RECIPE, tmp_path, run=tmp_path, step=7, data_hash="d" * 64, adapter_hash="a" * 64)


def scripted(tmp_path: Path, **options: Any) -> EvalResult:
    policy: Any = ScriptedPolicy()
    return evaluate_policy(policy, PROMPTS, summed(Scripted()), header(tmp_path), **options)


def test_both_models_get_the_same_prompts_settings_and_seed(tmp_path: Path, calls: Any) -> None:
    scripted(tmp_path)
    base = [call[1:] for call in calls if not call[0]]
    tuned = [call[1:] for call in calls if call[0]]
    assert base == tuned
    assert [name for names, _, _ in base for name in names] == [p.prompt_id for p in PROMPTS]
    assert base[0][1] == SamplingSettings(num_generations=2, max_completion_tokens=6, temperature=0.5)
    assert {seed for _, _, seed in base} == {derive_seed(5, "eval")}


def test_the_numbers_and_rows_of_an_evaluation(tmp_path: Path, calls: Any) -> None:
    result = scripted(tmp_path, weights={"calm": 3, "loud": 1})
    assert result.groups["calm"].difference.mean == pytest.approx(1.0)
    assert result.groups["loud"].difference.mean == 0.5
    bootstrap = Bootstrap(samples=100, confidence=0.95, seed=5)
    assert result.groups == summarise(result.rows, bootstrap).groups
    assert result.groups["loud"].tuned.n == 20
    # Macro (1 + 0.5) / 2; weighted 0.75 * 1 + 0.25 * 0.5.
    assert result.overall.macro.tuned.mean == pytest.approx(0.75)
    assert result.overall.weighted.tuned.mean == pytest.approx(0.875)
    assert len(result.rows) == 2 * 40 * 2
    assert result.details["calm"].win_rate.mean == 1.0 and result.details["loud"].improved.mean == 1.0
    assert result.fairness.worst is not None and result.fairness.worst.preference_group == "loud"
    assert (result.kept.base.perplexity, result.kept.tuned.perplexity) == (6.0, 7.0)
    assert result.kept.kl.mean == pytest.approx(0.1) and result.matrix is None
    row = next(row for row in result.rows if row.which == "tuned" and row.prompt_id == "loud-3")
    assert (row.preference_group, row.completion_index, row.reward) == ("loud", 0, 0.5)
    assert (row.length, row.finished, row.text) == (4, False, "tuned loud-3 0")
    assert row.parts == {"r0": 0.5}
    second = result.rows[result.rows.index(row) + 1]
    assert (second.completion_index, second.length, second.finished) == (1, 3, True)
    assert result.prompts["loud-3"] == "text of loud-3"
    assert (result.run, result.step, result.sampling["temperature"]) == (tmp_path.name, 7, 0.5)


def test_base_rows_are_not_sampled_twice(tmp_path: Path, calls: Any) -> None:
    first = scripted(tmp_path)
    calls.clear()
    base_rows = [row for row in first.rows if row.which == "base"]
    second = scripted(tmp_path, base_rows=base_rows)
    assert {adapter_on for adapter_on, *_ in calls} == {True}
    assert second == first


def test_shared_base_rows_have_the_rewards_of_today(tmp_path: Path, calls: Any) -> None:
    """Else a reward that was mended meanwhile would look like what training did."""

    class Mended(Scripted):
        def __call__(self, completions: Sequence[Completion]) -> list[Score]:
            return [Score(s.value + 2, {"value": s.value + 2}) for s in super().__call__(completions)]

    base_rows = [row for row in scripted(tmp_path).rows if row.which == "base"]
    policy: Any = ScriptedPolicy()
    shared = evaluate_policy(policy, PROMPTS, summed(Mended()), header(tmp_path), base_rows=base_rows)
    assert shared == evaluate_policy(policy, PROMPTS, summed(Mended()), header(tmp_path))
    assert shared.groups["loud"].base.mean == 2.0


def test_a_judge_is_not_asked_twice_about_shared_rows(tmp_path: Path, calls: Any) -> None:
    asked: list[str] = []

    async def judge(completions: Sequence[Completion]) -> list[Score]:
        asked.extend(c.text.split()[0] for c in completions)
        return [Score(1.0, {"value": 1.0}) for _ in completions]

    policy: Any = ScriptedPolicy()
    first = evaluate_policy(policy, PROMPTS, summed(Awaited(judge)), header(tmp_path))
    asked.clear()
    base_rows = [row for row in first.rows if row.which == "base"]
    evaluate_policy(policy, PROMPTS, summed(Awaited(judge)), header(tmp_path), base_rows=base_rows)
    assert set(asked) == {"tuned"}


def test_progress_is_told_for_both_models(tmp_path: Path, calls: Any) -> None:
    told: list[tuple[str, int, int]] = []
    scripted(tmp_path, progress=lambda *state: told.append(state))
    assert told[0] == ("base", 0, 40) and told[-1] == ("tuned", 40, 40)
    assert [state for state in told if state[0] == "base"] == [("base", n, 40) for n in (0, 16, 32, 40)]


def test_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="no held-out prompts"):
        evaluate_policy(ScriptedPolicy(), [], summed(Scripted()), header(tmp_path))  # type: ignore[arg-type]


def test_held_out_prompts_are_limited_by_preference_group() -> None:
    chosen = held_out([*PROMPTS, prompt("rare-0", "rare")], 2)
    assert [p.prompt_id for p in chosen] == ["calm-0", "loud-0", "calm-1", "loud-1", "rare-0"]
    assert held_out(PROMPTS, None) == PROMPTS


def without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations of a run have PROMPTS, and a policy and rewards without a model."""
    monkeypatch.setattr(module, "load_prepared", lambda path, split: PROMPTS if split == "eval" else [])
    monkeypatch.setattr(module, "load_policy", lambda recipe, **places: ScriptedPolicy())
    monkeypatch.setattr(module, "build_rewards", lambda *arguments, **options: summed(Scripted()))


def test_a_run_is_evaluated_and_the_result_kept(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_a_model(monkeypatch)
    limited = RECIPE.model_copy(update={"eval": RECIPE.eval.model_copy(update={"max_prompts_per_group": 3})})
    target = eval_target(make_run(tmp_path / "run", limited), limited, tmp_path)
    result = evaluate_target(target)
    assert read_result(target.path) == result
    assert result.groups["calm"].base.n == 3
    # The manifest counts 30 and 10 training prompts.
    assert result.weights == {"calm": 30, "loud": 10}
    calls.clear()
    again = evaluate_target(target, others=[result])
    assert [adapter_on for adapter_on, *_ in calls] == [True]
    assert again == result


def test_a_new_evaluation_says_that_its_prompts_have_chosen_the_adapter(
    tmp_path: Path, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_a_model(monkeypatch)
    sections = {"eval": {"every": 1}, "train": {"keep_best": "macro"}}
    keeping = RECIPE.model_copy(
        update={name: getattr(RECIPE, name).model_copy(update=keys) for name, keys in sections.items()}
    )
    run = make_run(tmp_path / "run", keeping)
    add_curve(run, {0: 0.1, 1: 0.2, RECIPE.train.steps: 0.3})
    target = eval_target(run, keeping, tmp_path)
    result = evaluate_target(target)
    assert "the best of 2 evaluations by macro (train.keep_best)" in result.notes[-1]
    assert read_result(target.path) == result


def tiny_rewards() -> RewardSum:
    section = recipe_of(rewards=[{"type": "length", "unit": "characters", "max": 8}]).rewards
    return build_rewards(section, Path(), False)


def test_a_real_model_with_an_adapter_of_zeros_is_no_different(tmp_path: Path) -> None:
    policy, prompts = tiny_policy(), make_prompts([5, 9, 7, 6])
    randomize_adapter(policy, scale=0.0)
    result = evaluate_policy(policy, prompts, tiny_rewards(), header(tmp_path))
    base, tuned = ([r.text for r in result.rows if r.which == which] for which in ("base", "tuned"))
    assert base == tuned and len(set(base)) > 1
    assert result.overall.macro.difference.mean == 0.0
    assert result.kept.kl.mean == 0.0 and result.kept.base == result.kept.tuned
    assert 1 < result.kept.base.perplexity < math.inf


def test_an_evaluation_that_runs_out_of_memory_says_so_and_has_the_same_rows(tmp_path: Path) -> None:
    policy, prompts = tiny_policy(), make_prompts((9, 5, 7))
    whole = evaluate_policy(policy, prompts, tiny_rewards(), header(tmp_path))
    notes: list[str] = []
    with forward_limit(policy, 15):
        result = evaluate_policy(policy, prompts, tiny_rewards(), header(tmp_path), on_note=notes.append)
    assert result.overall == whole.overall
    assert [row.text for row in result.rows] == [row.text for row in whole.rows]
    divergences = [[row.kl for row in found.rows] for found in (result, whole)]
    assert divergences[0] == pytest.approx(divergences[1], nan_ok=True, abs=1e-6)
    assert math.isnan(result.kept.base.perplexity)
    # 3 · (9 + 2 · 6) = 63 tokens did not fit: 32 of 16384 are left, once for both models.
    assert notes == ["warning: out of memory; rollout batches now hold at most 32 tokens"]


def test_a_real_model_with_an_adapter_answers_differently_and_repeatably(tmp_path: Path) -> None:
    policy, prompts = tiny_policy(), make_prompts([5, 9, 7, 6])
    randomize_adapter(policy, scale=3.0)
    result = evaluate_policy(policy, prompts, tiny_rewards(), header(tmp_path))
    base, tuned = ([r.text for r in result.rows if r.which == which] for which in ("base", "tuned"))
    assert base != tuned
    assert result.kept.kl.mean > 0 and result.kept.base.perplexity != result.kept.tuned.perplexity
    assert evaluate_policy(policy, prompts, tiny_rewards(), header(tmp_path)) == result


def test_portions_are_sampled_while_the_rewards_of_the_one_before_are_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_PROMPTS_AT_ONCE", 2)
    policy, prompts = tiny_policy(), make_prompts([5, 9, 7, 6, 8])
    randomize_adapter(policy, scale=3.0)
    begun: list[int] = []

    def plain(completions: Sequence[Completion]) -> list[Score]:
        return [Score(len(c.text) / 7, {"value": len(c.text) / 7}) for c in completions]

    async def reward(completions: Sequence[Completion]) -> list[Score]:
        begun.append(len(begun) + 1)
        me = begun[-1]
        # Portions of 2, 2 and 1 prompts for each model; the last portion has none after it.
        await until(lambda: me in (3, 6) or len(begun) > me)
        return plain(completions)

    result = evaluate_policy(policy, prompts, summed(Awaited(reward)), header(tmp_path))
    assert begun == [1, 2, 3, 4, 5, 6]
    assert result == evaluate_policy(policy, prompts, summed(Plain(plain)), header(tmp_path))
    assert threads_left() == []


def test_completions_are_scored_by_the_rewards_of_the_other_groups(tmp_path: Path, calls: Any) -> None:
    result = scripted(tmp_path, by_group=summed(Scripted2()))
    assert result.matrix is not None and result.matrix.preference_groups == ["calm", "loud"]
    assert result.matrix.rewards == ["r0"]
    # calm gives 1 to texts of the tuned model, loud 0.25 to all.
    assert result.matrix.base == [[0.0, 0.25], [0.0, 0.25]]
    assert result.matrix.tuned == [[1.0, 0.25], [1.0, 0.25]]


def test_the_rewards_of_an_evaluation_and_of_its_matrix_share_an_event_loop(
    tmp_path: Path, calls: Any
) -> None:
    # As of the user's own function: once it has waited, the semaphore belongs to the loop.
    turn = asyncio.Semaphore(1)

    async def reward(completions: Sequence[Completion]) -> list[Score]:
        async def one(completion: Completion) -> Score:
            async with turn:
                await asyncio.sleep(0)
                return Score(float(completion.preference_group == "calm"), {})

        return await asyncio.gather(*map(one, completions))

    rewards, notes = summed(Awaited(reward)), []
    policy: Any = ScriptedPolicy()
    result = evaluate_policy(
        policy, PROMPTS, rewards, header(tmp_path), by_group=rewards, on_note=notes.append
    )
    assert notes == []
    assert result.matrix is not None and result.matrix.base == [[1.0, 0.0], [1.0, 0.0]]


class Scripted2(Scripted):
    """1 for the tuned model by `calm`, 0.25 for anything by `loud`; it knows the prompt and the columns."""

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        assert all(c.prompt == f"text of {c.prompt_id}" and c.messages for c in completions)
        values = [
            0.25 if c.preference_group == "loud" else float(c.text.startswith("tuned")) for c in completions
        ]
        return [Score(value, {"value": value}) for value in values]


def test_a_matrix_that_asks_the_same_of_everybody_is_none(tmp_path: Path, calls: Any) -> None:
    class Same(Scripted):
        def worth(self, completion: Completion) -> float:
            return 0.5

    assert scripted(tmp_path, by_group=summed(Same())).matrix is None


def test_users_are_known_to_the_result(tmp_path: Path, calls: Any) -> None:
    asked = [replace(p, user_id=f"user {i // 4}") for i, p in enumerate(PROMPTS)]
    policy: Any = ScriptedPolicy()
    result = evaluate_policy(policy, asked, summed(Scripted()), header(tmp_path))
    # Four prompts in a row are of one user: two of calm, two of loud.
    assert result.unit == "user" and result.details["calm"].units == 10
    assert result.users["calm-0"] == "user 0"
