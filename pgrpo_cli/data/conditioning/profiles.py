"""A description of each preference group: as the recipe gives it, or from what defines the groups."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pgrpo_cli.data.preference_groups.by_row import interval_names
from pgrpo_cli.errors import DataError
from pgrpo_cli.recipe.conditioning import ProfilesConditioning
from pgrpo_cli.recipe.data import BinsGroups, DataSection

_SEVERAL = 2


def profiles_of(
    section: ProfilesConditioning,
    data: DataSection,
    groups: Iterable[str],
    findings: Mapping[str, Any] | None,
) -> dict[str, str]:
    """The description of each of the preference groups, in their order.

    `findings`: what the manifest says of clusters. Raises DataError for a group that has none.
    """
    given = section.profiles
    if isinstance(given, str):
        return {group: described(group, data, findings) for group in groups}
    profiles = {group: given[group] for group in groups if group in given}
    lacking = [group for group in groups if not profiles.get(group, "").strip()]
    if lacking:
        raise DataError(
            f"data.conditioning.profiles has no profile of preference group {', '.join(map(repr, lacking))}",
            remedy="Add to `profiles`, in words about these users: "
            + "; ".join(f"`{json.dumps(group, ensure_ascii=False)}: ...`" for group in lacking)
            + "\nOr set data.conditioning.profiles to auto.",
        )
    return profiles


def described(group: str, data: DataSection, findings: Mapping[str, Any] | None) -> str:
    """What defines a preference group, in words: its cluster's features, its interval, its id."""
    if findings is not None:
        for cluster in findings["clusters"]:
            if cluster["name"] == group:
                return _cluster(cluster["distinctive"], findings["features"])
    section = data.preference_groups
    if isinstance(section, BinsGroups) and section.names is not None and group in section.names:
        rule = interval_names(section.column, section.edges)[section.names.index(group)]
        return f"{_in_words(group)} ({rule})"
    return _in_words(group) if not isinstance(section, BinsGroups) else group


def _cluster(distinctive: Mapping[str, float], features: str) -> str:
    more = [name for name, value in distinctive.items() if value > 0]
    less = [name for name, value in distinctive.items() if value < 0]
    verbs = ("likes", "cares less for") if features == "profile" else ("often writes of", "writes less of")
    parts = [f"{verb} {_listing(names)}" for verb, names in zip(verbs, (more, less), strict=True) if names]
    return ", ".join(parts) or "like most users"


def _listing(names: Sequence[str]) -> str:
    if len(names) < _SEVERAL:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _in_words(group: str) -> str:
    return " ".join(group.replace("-", " ").replace("_", " ").split()) or group
