"""`data`: prompts with preference groups, and how they are split."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .base import ExpressionText, GroupName, PathText, Section, Violation
from .conditioning import Conditioning, PromptConditioning
from .sources import Source

Name = Annotated[GroupName, Field(min_length=1, max_length=200)]


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

    def violations(self) -> Iterator[Violation]:
        """Each interval has one name."""
        intervals = len(self.edges) + 1
        if self.names is not None and len(self.names) != intervals:
            rule = f"{len(self.edges)} edges make {intervals} intervals; give as many names"
            yield Violation(("names",), self.names, rule)


class ExpressionGroups(Section):
    """What a Jinja expression makes of a row: `'young' if age < 30 else 'old'`, `country ~ ', ' ~ language`.

    Columns are variables; `columns['favourite genre']` reads one whose name is no variable's. `user_id` and
    `time` are known where the source gives them. The result must be text or a whole number. What an
    expression may do stands under Templates in docs/data.md.
    """

    type: Literal["expression"] = "expression"
    expression: ExpressionText = Field(
        min_length=1, max_length=1000, description="The expression, without `{{ }}`."
    )


class UserGroups(Section):
    """One preference group per user."""

    type: Literal["user"] = "user"


class RandomGroups(Section):
    """Preference groups of users, or of prompts if users are not known, assigned at random.

    The control of an experiment: such groups have nothing in common, so their gain is not personalization.
    """

    type: Literal["random"] = "random"
    count: int = Field(ge=1, le=100_000, description="Number of preference groups.")


class ClusterGroups(Section):
    """Clusters of similar users (k-means), named after the differences between them.

    Users with training prompts are clustered; others, such as held-out users, go to the centroid that is
    nearest to all their prompts. The data are split first, so held-out prompts have no influence on the
    clusters. `data/preference_groups.json` of the run has the centroids.

    With `count: null` the number of clusters is the one with the best mean silhouette. The same search runs
    on 19 copies of the features with each column shuffled among the users. If the clusters are not better
    than those of all copies, they are no better than chance, and `prepare` warns. Better clusters only show
    that some features occur together, not that there are kinds of people. `prepare` also warns if other seeds
    give other clusters (mean adjusted Rand index below 0.6).
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

    def violations(self) -> Iterator[Violation]:
        """Embeddings come from a model, and nothing else does."""
        if self.features == "embedding" and self.model is None:
            rule = "required with features 'embedding': the folder of the model; set it"
            yield Violation(("model",), self.model, rule)
        if self.features != "embedding" and self.model is not None:
            rule = (
                f"used with features 'embedding' only (found {self.features!r}); remove it, or set features"
            )
            yield Violation(("model",), self.model, rule)


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


class DataSection(Section):
    """Prompts and their preference groups."""

    source: Source = Field(description="Where the prompts come from.")
    preference_groups: PreferenceGroups = Field(
        ColumnGroups(), description="How prompts come into preference groups."
    )
    conditioning: Conditioning = Field(PromptConditioning(), description="How the model is told who asks.")
    split_by: Literal["text", "user", "time"] = Field(
        "text",
        description="What is held out, where the source has no split. `text`: prompts, equal texts and the "
        "turns of a conversation together. `user`: whole users. `time`: the latest prompts of users. No text "
        "is on both sides, and no training prompt begins with a held-out one.",
    )
    eval_fraction: float = Field(
        0.1,
        ge=1e-6,
        lt=1,
        description="Share of each preference group's prompts held out, where the source has no split; "
        "with `split_by: user`, of its users.",
    )
    max_prompt_tokens: int = Field(
        1024,
        ge=8,
        le=10_000_000,
        description="Longest prompt, in tokens, chat template included. Longer ones are left out, not cut.",
    )
    max_rejected_share: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Largest share of rows that may be rejected as broken; above it nothing is prepared. For "
        "one file or one preference group the limit is 4 times that share. Up to 2 broken rows are always "
        "allowed, unless it is 0. Rows that the limits above or a public set leave out do not count.",
    )
    seed: int | None = Field(
        None,
        ge=0,
        description="Seed of everything about the data: the split, drawn and clustered preference groups, "
        "made-up prompts. Null: the recipe's. Set, it lets runs of several seeds share data.",
    )

    def violations(self) -> Iterator[Violation]:
        """A user who is held out is in a preference group that others train."""
        if self.split_by == "user" and isinstance(self.preference_groups, UserGroups):
            rule = (
                "with data.preference_groups of type 'user' no training prompt would be left of a held-out "
                "user; set it to text or time"
            )
            yield Violation(("split_by",), "user", rule)
