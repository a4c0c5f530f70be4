"""`data.preference_groups`: which preference group a prompt belongs to."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .base import Section
from .path_text import PathText

Name = Annotated[str, Field(min_length=1, max_length=200)]


class ColumnGroups(Section):
    """As the rows name it; the source's `preference_group_column` says where."""

    type: Literal["column"] = "column"


class BinsGroups(Section):
    """A number of each row cut into intervals, such as an age or a mean rating.

    An interval holds its lower edge and not its upper one: edges [18, 30] make `age < 18`,
    `18 <= age < 30` and `age >= 30`, which are also the names where none are given. Text that reads as a
    number is one.
    """

    type: Literal["bins"] = "bins"
    column: str = Field(min_length=1, description="Column with the number.")
    edges: tuple[float, ...] = Field(min_length=1, description="Where to cut, in ascending order.")
    names: tuple[Name, ...] | None = Field(
        None, description="Names of the preference groups, one more than edges. Null: the intervals."
    )

    @field_validator("edges")
    @classmethod
    def _ascend(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(low >= high for low, high in pairwise(edges)):
            raise ValueError("must ascend, each edge once; sort them")
        return edges

    @field_validator("names")
    @classmethod
    def _differ(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and len(set(names)) < len(names):
            raise ValueError("must differ from each other; rename one")
        return names


class ExpressionGroups(Section):
    """What a Jinja expression makes of a row: `'young' if age < 30 else 'old'`, `country ~ ', ' ~ language`.

    Columns are variables; `columns['favourite genre']` reads one whose name is no variable's. `user_id` and
    `time` are known where the source gives them. The result must be text or a whole number. What an
    expression may do stands under Templates in docs/data.md.
    """

    type: Literal["expression"] = "expression"
    expression: str = Field(min_length=1, max_length=1000, description="The expression, without `{{ }}`.")


class UserGroups(Section):
    """One preference group a user."""

    type: Literal["user"] = "user"


class RandomGroups(Section):
    """Users drawn into preference groups by lot, or prompts where no user is known.

    The control of an experiment: such groups share nothing, so what they gain is not personalization.
    """

    type: Literal["random"] = "random"
    count: int = Field(ge=1, le=100_000, description="Number of preference groups.")


class ClusterGroups(Section):
    """Users alike by k-means, named after what sets them apart. Needs `pip install 'pgrpo-cli[groups]'`.

    Users with training prompts are clustered; others, such as held-out users, go to the nearest centroid. The
    data are split first, so no held-out prompt has a say. `data/preference_groups.json` of the run keeps the
    centroids.

    With `count: null` the number of clusters is the one with the best mean silhouette. The same search runs
    on 19 copies of the features with each column shuffled among the users: groups that do not beat all of
    them are no better than chance, and `prepare` warns. Groups that do have features that go together; that
    does not make them kinds of people. It warns too where other seeds draw other groups (mean adjusted Rand
    index under 0.6).
    """

    type: Literal["cluster"] = "cluster"
    features: Literal["profile", "tfidf", "embedding"] = Field(
        "profile",
        description="`profile`: the numbers that the source knows of users, standardised; unknown ones count "
        "as average. `tfidf`: the words of their profile's text, or of their training prompts. `embedding`: "
        "the meaning of the same texts, by `model`.",
    )
    model: PathText | None = Field(
        None,
        min_length=1,
        description="Folder of a sentence embedding model (safetensors, no code of its own) "
        "whose states are averaged. A relative path starts at the recipe's folder. With `embedding` only.",
    )
    count: int | None = Field(None, ge=2, le=1000, description="Number of clusters. Null: chosen.")
    counts: tuple[Annotated[int, Field(ge=2, le=100)], ...] = Field(
        (2, 8), description="Least and greatest number to choose from, where `count` is null."
    )
    n_init: int = Field(10, ge=1, le=1000, description="Starts of k-means; the best one counts.")

    @field_validator("counts")
    @classmethod
    def _an_interval(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if len(counts) != 2 or counts[0] > counts[1]:
            raise ValueError("must be two numbers, the least and the greatest, such as [2, 8]")
        return counts


class PluginGroups(Section):
    """What an installed package makes of a row; it registers under the entry point group
    `pgrpo.preference_groups`. Needs --allow-code.

    The entry point is called with the options and returns a function from a record (`messages`, `columns`,
    `user_id`, `time`, `preference_group` as the row names it) to the name of its preference group.
    """

    type: Literal["plugin"] = "plugin"
    plugin: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of its factory.")


PreferenceGroups = Annotated[
    ColumnGroups | BinsGroups | ExpressionGroups | UserGroups | RandomGroups | ClusterGroups | PluginGroups,
    Field(discriminator="type"),
]
