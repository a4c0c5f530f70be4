"""Descriptions of preference groups: given, or from what defines the groups."""

from __future__ import annotations

from typing import Any

import pytest

from pgrpo_cli.data.conditioning.profiles import described, profiles_of
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.conditioning import ProfilesConditioning
from pgrpo_cli.recipe.data import DataSection

BINS = {"type": "bins", "column": "age", "edges": [18]}


def data(groups: Any = None) -> DataSection:
    source = {"type": "jsonl", "path": "rows.jsonl"}
    return DataSection.model_validate({"source": source, "preference_groups": groups or {"type": "column"}})


def found(features: str, **distinctive: float) -> dict[str, Any]:
    return {"features": features, "clusters": [{"name": "c", "users": 9, "distinctive": distinctive}]}


@pytest.mark.parametrize(
    ("group", "section", "findings", "text"),
    [
        ("terse-jazz", None, None, "terse jazz"),
        ("--", None, None, "--"),
        ("age < 18", BINS, None, "age < 18"),
        ("young", {**BINS, "names": ["young", "old"]}, None, "young (age < 18)"),
        (
            "c",
            {"type": "cluster"},
            found("profile", Horror=1.2, War=0.5, Drama=-0.4),
            "likes Horror and War, cares less for Drama",
        ),
        ("c", {"type": "cluster"}, found("tfidf", guitar=0.3), "often writes of guitar"),
        ("c", {"type": "cluster"}, found("tfidf"), "like most users"),
    ],
)
def test_what_defines_a_group_describes_it(group: str, section: Any, findings: Any, text: str) -> None:
    assert described(group, data(section), findings) == text


def test_a_group_without_a_profile_is_named_with_the_line_to_write() -> None:
    section = ProfilesConditioning(type="profiles", profiles={"a": "brief", "b": " "})
    assert profiles_of(section, data(), ["a"], None) == {"a": "brief"}
    with pytest.raises(DataError) as caught:
        profiles_of(section, data(), ["a", "b", "c: d"], None)
    assert "no profile of preference group 'b', 'c: d'" in caught.value.message
    assert '`"b": ...`; `"c: d": ...`' in str(caught.value)


def test_auto_describes_every_group() -> None:
    section = ProfilesConditioning(type="profiles", profiles="auto")
    assert profiles_of(section, data(), ["a_b", "c"], None) == {"a_b": "a b", "c": "c"}
