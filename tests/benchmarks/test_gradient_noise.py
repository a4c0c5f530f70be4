"""The measured efficiency of estimators: signal and noise by hand, and where both are known."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.gradient_noise import (
    Sample,
    against,
    chosen,
    history_of,
    measured,
    predicted,
    signal_of,
    tables,
)
from pgrpo_cli.data.records import PreparedPrompt


def test_signal_and_noise_by_hand() -> None:
    # Three prompts, one estimate of one number each: 1, 2 and 3. Products of different prompts: 2, 3 and 6,
    # in the mean 11/3. Squares in the mean: 14/3. So the noise is 1, which is the variance of 1, 2, 3.
    found = signal_of(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), 2)
    assert (found.signal, found.noise) == (pytest.approx(11 / 3), pytest.approx(1.0))
    assert found.ratio == pytest.approx(11 / 3 / 2)
    # Without the first: product 6, squares 13/2, noise 1/2; without the last: 2, 5/2, 1/2.
    assert found.ratios_M[0].item() == pytest.approx(6 / (2 * 0.5))
    assert found.ratios_M[2].item() == pytest.approx(2 / (2 * 0.5))


def test_estimates_of_one_prompt_are_not_multiplied_with_each_other() -> None:
    # Two prompts with two estimates: means 2 and 4, product 8; squares (1 + 9) / 2 and (9 + 25) / 2, mean 11.
    found = signal_of(torch.tensor([[[1.0], [3.0]], [[3.0], [5.0]]]), 1)
    assert (found.signal, found.noise) == (8.0, 3.0)


def made_up(prompts: int = 200, completions: int = 16, rate: float = 0.3) -> Sample:
    """Gradients that are a common direction times what the reward says, and noise of the completion's own.

    The part in the direction is 2 (1 - rate) for a success and -2 rate for a failure: 0 in the mean, as the
    mean gradient of log-probabilities is.
    """
    generator = torch.Generator().manual_seed(0)
    N = prompts * completions
    rewards_N = (torch.rand(N, generator=generator) < rate).double()
    scores_N_D = torch.randn(N, 32, generator=generator, dtype=torch.float64)
    scores_N_D[:, 0] += 2 * (rewards_N - rate)
    return Sample(["a"] * N, rewards_N.tolist(), scores_N_D, completions)


@pytest.mark.parametrize("G", [2, 4, 8])
def test_what_is_measured_is_what_the_rewards_predict(G: int) -> None:
    sample = made_up()
    history = history_of(sample)
    ours, theirs = (measured(sample, name, G, history) for name in ("grpo", "pgrpo"))
    ratio, low, high = against(ours, theirs)
    expected = predicted(sample, "grpo", G, history) / predicted(sample, "pgrpo", G, history)
    assert low < ratio < high
    assert low * 0.95 < expected < high * 1.05
    assert high - low < 0.5


def test_without_a_signal_there_is_no_interval() -> None:
    # Products of 1, -1, 1, -1 are -4 of 12 in the mean: no signal, only noise.
    none = signal_of(torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1, 1), 2)
    some = signal_of(torch.tensor([1.0, 2.0, 1.0, 2.0]).view(4, 1, 1), 2)
    assert none.signal == pytest.approx(-1 / 3) and some.signal > 0
    assert all(math.isnan(end) for end in against(none, some)[1:])
    assert not any(math.isnan(end) for end in against(some, some))


def test_the_table_has_a_row_for_each_size_of_generation_groups() -> None:
    lines = tables(made_up(prompts=40)).splitlines()
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| 2", "| 4", "| 8", "| 16"]
    assert "640 completions of 40 prompts" in lines[0]


def test_prompts_are_taken_group_by_group() -> None:
    def of(name: str, group: str) -> PreparedPrompt:
        return PreparedPrompt(name, group, "", (1,), {})

    found = chosen([of("1", "b"), of("2", "a"), of("3", "b"), of("4", "b")], 2)
    assert [prompt.prompt_id for prompt in found] == ["2", "1", "3"]
