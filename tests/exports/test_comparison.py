"""The comparison's numbers by hand, and what it refuses."""

from __future__ import annotations

import math

import pytest

from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import ExportError
from pgrpo_cli.exports.comparison import compared, require_near
from pgrpo_cli.exports.reference import Answer, Read

PROMPT = PreparedPrompt("p", "g", "Hello", (1, 2))
OWN = Read([-0.1, -0.2], [5, 6])
BASE = Read([-1.1, -1.2], [7, 6])
ANSWERS = [Answer(PROMPT, [5, 6], True, OWN, BASE)]


def test_by_hand() -> None:
    # |-0.1 + 0.2| = 0.1 and |-0.2 + 0.5| = 0.3: 0.2 on average; the base model is 1 away at both tokens.
    found = compared(ANSWERS, [Read([-0.2, -0.3], [5, 6])], [Read([-0.2, -0.5], [5, 6])], bound=0.25, by="x")
    assert (found.prompts, found.greedy_equal) == (1, 1)
    assert found.mean_abs_logprob_difference == pytest.approx(0.2)
    # The weights before they were written: 0.1 from the run at both tokens, 0 and 0.2 from the export.
    assert found.rounding_difference == pytest.approx(0.1)
    assert found.export_difference == pytest.approx(0.1)
    assert found.trained_difference == pytest.approx(1.0)


def test_one_other_token_is_another_answer() -> None:
    assert compared(ANSWERS, [OWN], [Read([-0.1, -0.2], [5, 9])], bound=1, by="x").greedy_equal == 0


@pytest.mark.parametrize(
    ("read", "cause"),
    [
        (Read([-0.1, -0.2], [5, 6]), None),
        (Read([-0.4, -0.4], [5, 6]), None),  # 0.25 away on average, which is allowed
        (Read([-0.5, -0.6], [5, 6]), "rounded too much"),  # 0.4 away, 0.6 from the base model
        (Read([-1.1, -1.0], [7, 6]), "adapter was not applied"),
        (Read([-9.0, -9.0], [7, 8]), "wrong order"),
        (Read([math.nan, -0.2], [0, 6]), "too large for the type"),
    ],
)
def test_what_is_too_far_away_is_an_error_with_its_cause(read: Read, cause: str | None) -> None:
    checked = compared(ANSWERS, [OWN], [read], bound=0.25, by="x")
    if cause is None:
        require_near(checked, ANSWERS, [read])
        return
    with pytest.raises(ExportError, match=cause) as caught:
        require_near(checked, ANSWERS, [read])
    assert caught.value.exit_code == 1


def test_a_lost_adapter_shows_below_the_bound_too() -> None:
    # It moved the model by less than the bound, and the export answers exactly as the base model does.
    answers = [Answer(PROMPT, [5, 6], True, OWN, Read([-0.15, -0.25], [5, 6]))]
    read = Read([-0.15, -0.25], [5, 6])
    checked = compared(answers, [OWN], [read], bound=0.25, by="x")
    with pytest.raises(ExportError, match="adapter was not applied"):
        require_near(checked, answers, [read])


def test_where_training_changed_nothing_no_adapter_is_lost() -> None:
    # The order of additions alone makes the export nearer to the base model.
    answers = [Answer(PROMPT, [5, 6], True, OWN, Read([-0.1 + 3e-8, -0.2], [5, 6]))]
    read = Read([-0.1 + 3e-8, -0.2 + 1e-9], [5, 6])
    require_near(compared(answers, [OWN], [read], bound=0.25, by="x"), answers, [read])


def test_rounding_may_not_lose_as_much_as_training_changed() -> None:
    # Training moved both tokens by 0.3, and rounding does by 0.35, the other way. The type may lose 0.7.
    answers = [Answer(PROMPT, [5, 6], True, OWN, Read([-0.4, -0.5], [5, 6]))]
    read = Read([0.25, 0.15], [5, 6])
    checked = compared(answers, [OWN], [read], bound=0.7, by="x")
    assert checked.bound == pytest.approx(0.3)
    with pytest.raises(ExportError, match="as much as training changed"):
        require_near(checked, answers, [read])
    # What every type may lose is allowed after any training: here it changed 0.05, and 0.1 is lost.
    barely = [Answer(PROMPT, [5, 6], True, OWN, Read([-0.15, -0.25], [5, 6]))]
    read = Read([0.0, -0.1], [5, 6])
    checked = compared(barely, [OWN], [read], bound=0.7, by="x")
    assert checked.bound == 0.15
    require_near(checked, barely, [read])
