"""Two runs that tell the model who asks, and do not, question by question."""

from __future__ import annotations

from benchmarks.conditioning import differences


def test_differences_by_hand() -> None:
    told = {
        "tuned": {
            ("a", "x"): 0.9,
            ("a", "y"): 0.7,
            ("b", "x"): 0.5,
            ("b", "z"): 0.5,
            ("b", "only here"): 9.0,
        },
        "base": {("a", "x"): 0.4, ("a", "y"): 0.4, ("b", "x"): 0.3, ("b", "z"): 0.3, ("b", "only here"): 9.0},
    }
    untold = {
        "tuned": {("a", "x"): 0.5, ("a", "y"): 0.5, ("b", "x"): 0.5, ("b", "z"): 0.5},
        "base": {("a", "x"): 0.3, ("a", "y"): 0.3, ("b", "x"): 0.3, ("b", "z"): 0.3},
    }
    rows = {name: (value.split()[0], count) for name, value, count in differences(told, untold)}
    # a: 0.4 and 0.2, so 0.3; b: nothing. The base model: 0.1 in a, so training gained 0.2 more there.
    assert rows == {
        "tuned model, a": ("+0.300", "2"),
        "tuned model, b": ("+0.000", "2"),
        "**tuned model**": ("+0.150", "4"),
        "base model": ("+0.050", "4"),
        "what training gained": ("+0.100", "4"),
    }
