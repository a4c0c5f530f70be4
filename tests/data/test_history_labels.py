"""Whose history a prompt's rewards enter: its preference group's, or one drawn by chance."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pgrpo_cli.data.history_labels import HistoryLabels
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.recipe.training import HistorySection
from tests.support.records import prompt

RANDOM = HistorySection(preference_groups="random")


def prompts_of(counts: dict[str, int]) -> list[PreparedPrompt]:
    """So many prompts of each preference group."""
    return [
        prompt(f"{name}/{index}", preference_group=name) for name, n in counts.items() for index in range(n)
    ]


def test_named_ones_are_those_of_the_prompts() -> None:
    prompts = prompts_of({"a": 2, "b": 1})
    labels = HistoryLabels(HistorySection(), prompts, 0)
    assert (labels.of(prompts), labels.random) == (["a", "a", "b"], False)


@given(counts=st.dictionaries(st.sampled_from("zyxw"), st.integers(1, 9), min_size=1), seed=st.integers(0, 9))
def test_random_ones_have_the_same_sizes_in_whatever_order_prompts_come(
    counts: dict[str, int], seed: int
) -> None:
    prompts = prompts_of(counts)
    labels = HistoryLabels(RANDOM, prompts, seed)
    found = labels.of(prompts)
    sizes = {f"random-{number}": counts[name] for number, name in enumerate(sorted(counts), 1)}
    assert Counter(found) == sizes and labels.random
    turned = HistoryLabels(RANDOM, prompts[::-1], seed)
    assert turned.of(prompts) == found
    assert labels.of(prompts[1:]) == found[1:]


def test_they_have_nothing_to_do_with_the_named_ones_and_depend_on_the_seed() -> None:
    """Of 400 prompts of each of two, half of either's, 200, are in each: give or take 4 standard deviations
    of √(400 * 400 / (4 * 800)) = 7.
    """
    prompts = prompts_of({"a": 400, "b": 400})
    one, other = (HistoryLabels(RANDOM, prompts, seed).of(prompts) for seed in (0, 1))
    assert abs(one[:400].count("random-1") - 200) < 28
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 500
