"""Updates with two budgets: the same tokens, and a rate that the arithmetic gives."""

from __future__ import annotations

import pytest

from pgrpo_cli.selfcheck import training
from pgrpo_cli.selfcheck.subject import Subject


def test_an_update_is_timed_with_each_budget(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece of work takes a second; the device makes 1e9 operations in one."""
    times = iter(range(10_000))
    monkeypatch.setattr(training, "matrix_rate", lambda *_: 1e9)
    monkeypatch.setattr(Subject, "seconds", lambda self: float(next(times)))
    found, problem = training.update(subject)
    assert problem is None and not found.gradient_checkpointing
    small, large = found.times
    assert (small.budget, large.budget) == (512, 2048)
    for time in found.times:
        # Eight rows of a prompt and eight completions, whose last tokens predict nothing.
        assert time.tokens == 8 * (48 + 8 * 15) and time.budget_left == time.budget
        assert time.seconds == 1 and time.peak_bytes is None
        # Four operations for each token and weight: all in the layers, completions' in the output layer.
        layers = 4 * (2 * 256**2 + 2 * 256 * 128 + 3 * 256 * 512) + 4 * 8 * (2 * 512 + 2 * 384 + 3 * 768)
        operations = 4 * (layers * 1344 + 256 * 512 * 64 * 16)
        assert time.matrix_share == pytest.approx(operations / 1e9)
