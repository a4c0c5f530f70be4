"""`data.source` for public collections and preference data sets, whose columns are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

from pydantic import Field

from .base import PathText, Section, Violation

UltraFeedbackAspect = Literal["instruction_following", "truthfulness", "honesty", "helpfulness"]
HelpSteer2Attribute = Literal["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
PersonalLLMModel = Literal[
    "gemma_2b",
    "gemma_7b",
    "mistral_raft",
    "mistral_ray",
    "mistral_weqweasdas",
    "llama3_sfairx",
    "oasst_deberta_v3",
    "beaver_7b",
    "oasst_pythia_7b",
    "oasst_pythia_1b",
]


class PublicSet(Section):
    """A set as it is published: of the Hugging Face Hub, or on this machine."""

    revision: str | None = Field(
        None, description="Branch, tag or commit of the hub's data set. Null: its main branch."
    )
    streaming: bool = Field(
        False, description="Read the hub's rows over the network as they come, without a copy on disk."
    )
    limit: int | None = Field(
        None, ge=1, description="Read that many rows only, of training and held-out rows each; for trying."
    )


class RatedSet(PublicSet):
    """A set with several rated answers to each prompt."""

    path: PathText | None = Field(
        None,
        description="File, pattern or folder (also of `save_to_disk`) of the set, `.jsonl`, `.jsonl.gz` or "
        "`.parquet`; relative paths start at the recipe's folder. In a folder whose files are named after "
        "splits only those of a split are read. Null: the hub's.",
    )
    eval_path: PathText | None = Field(None, description="Held-out prompts, where `path` is set.")

    def violations(self) -> Iterator[Violation]:
        """Held-out files of a set go with training files."""
        if self.eval_path is not None and self.path is None:
            rule = (
                "goes with data.source.path; set that, too, or remove it (eval_split chooses the hub's split)"
            )
            yield Violation(("eval_path",), self.eval_path, rule)


class UltraFeedbackSource(RatedSet):
    """UltraFeedback (openbmb/UltraFeedback): prompts with four answers, each rated in four aspects.

    An aspect is a preference group, with a prompt of its own for each of the set's; `reference` is the
    answer rated best in it, `reference_score` its rating (1 to 5), `scores` those of all answers.
    """

    type: Literal["ultrafeedback"] = "ultrafeedback"
    preference_groups: tuple[UltraFeedbackAspect, ...] = Field(
        get_args(UltraFeedbackAspect),
        min_length=1,
        description="Aspects to read.",
    )
    eval_split: str | None = Field(
        None,
        description="Split held out. Null: a share of the prompts of every preference group is held out.",
    )


class HelpSteer2Source(RatedSet):
    """HelpSteer2 (nvidia/HelpSteer2): prompts with two answers, each rated in five attributes.

    An attribute is a preference group, with a prompt of its own for each of the set's; `reference` is the
    answer rated highest in it, `reference_score` its rating (0 to 4), `scores` those of both answers.
    """

    type: Literal["helpsteer2"] = "helpsteer2"
    preference_groups: tuple[HelpSteer2Attribute, ...] = Field(
        get_args(HelpSteer2Attribute),
        min_length=1,
        description="Attributes to read.",
    )
    eval_split: str | None = Field(
        "validation",
        description="Split held out. Null: a share of the prompts of every preference group is held out.",
    )


class PersonalLLMSource(RatedSet):
    """PersonalLLM (namkoong-lab/PersonalLLM): prompts with eight answers, each scored by ten reward models.

    A reward model is a preference group, with a prompt of its own for each of the set's; `reference` is the
    answer that it scores highest, `reference_score` that score, `scores` those of all answers.
    """

    type: Literal["personalllm"] = "personalllm"
    preference_groups: tuple[PersonalLLMModel, ...] = Field(
        get_args(PersonalLLMModel),
        min_length=1,
        description="Reward models to read the scores of.",
    )
    eval_split: str | None = Field(
        "test",
        description="Split held out. Null: a share of the prompts of every preference group is held out.",
    )


class PrismSource(PublicSet):
    """PRISM (HannahRoseKirk/prism-alignment): 1,396 people of many countries in chats that they rate.

    `reference` is the answer that the person chose, `reference_score` their score of it (1 to 100), `scores`
    those of all answers of the turn. People are users; their survey tells preference groups and profiles.
    """

    type: Literal["prism"] = "prism"
    path: PathText | None = Field(
        None,
        description="Folder with conversations.jsonl and survey.jsonl, relative to the recipe's. Null: the "
        "hub's.",
    )
    preference_groups_by: str = Field(
        "location.special_region",
        description="Column of the survey that names a person's preference group, such as "
        "`location.reside_country`, `age`, `gender` or `religion.simplified`; `user_id`: each their own.",
    )
    turns: Literal["opening", "all"] = Field(
        "opening",
        description="Prompts of a conversation: its opening only, or each turn after what came before it.",
    )


class MovielensSource(Section):
    """MovieLens ratings: after the films that a user rated comes the one that they will like next.

    Folder or zip file as GroupLens gives them out: 1M and 10M (`ratings.dat`, `movies.dat`), latest-small,
    25M, 32M and the like (`ratings.csv`, `movies.csv`). Films of the same second count as neither earlier nor
    later. What is shown in training prompts, and what a user's profile is made of, precedes everything of
    theirs that is held out. A profile holds, for each genre, how many stars its films are above the user's
    mean, shrunk towards 0 where they are few, and the same for tags that many films have. Rows name as
    preference group the genre that is highest there. Further columns for rewards: `target`, `candidates`,
    `genres`, `watched`, with titles as MovieLens writes them ('Matrix, The (1999)').
    """

    type: Literal["movielens"] = "movielens"
    path: PathText = Field(description="Folder or zip file; a relative path starts at the recipe's folder.")
    history: int = Field(
        10,
        ge=1,
        description="Rated films that a prompt shows, the latest ones; films with fewer are no target.",
    )
    candidates: int | None = Field(
        10,
        ge=2,
        le=100,
        description="Titles to choose from: the target and, in proportion to how often others rated them "
        "shortly before, films that the user has not rated by then. Null: the title is asked for without a "
        "choice.",
    )
    min_rating: float = Field(4.0, ge=0.5, le=5, description="Least rating of a target, in stars.")
    min_ratings: int = Field(20, ge=2, description="Users with fewer ratings are left out.")
    prompts_per_user: int = Field(4, ge=1, description="Most training prompts of a user, drawn at random.")
    eval_prompts_per_user: int = Field(1, ge=1, description="Most held-out prompts of a user.")
    max_users: int | None = Field(
        10_000,
        ge=1,
        description="Most users, drawn at random; their 50,000 prompts are more than one GPU trains on in a "
        "month. Null: all who have a target, of 25M and 32M a million prompts, for which `prepare` needs "
        "some 30 GB of memory.",
    )
    holdout: Literal["last", "cut"] = Field(
        "last",
        description="`last`: every user's last targets are held out. `cut`: everyone's first ones after one "
        "moment; training sees only what came before it.",
    )
    cut: float = Field(
        0.9, gt=0, lt=1, description="Share of all ratings before that moment, with `holdout: cut`."
    )
    tags: int = Field(20, ge=0, description="Tags in profiles: those that most films have. 0: genres only.")


class GoodreadsSource(Section):
    """Goodreads reviews of the UCSD Book Graph: write the review that a reader of that rating would.

    A prompt has the rating, the book's title and description where `books_path` is given, and earlier reviews
    of the same reader; the review itself is in the column `reference`, beside `rating` and `title`. Rows name
    as preference group the rating ('4 stars'). Every reader's last review is held out where they have two.
    Lines are read one after the other; only the sampled ones stay in memory.
    """

    type: Literal["goodreads"] = "goodreads"
    path: PathText = Field(
        description="`goodreads_reviews_*.json.gz`: file or glob pattern, from the recipe's folder. "
        "`goodreads_interactions_*.json.gz` are read too; their reviews may break off."
    )
    books_path: PathText | None = Field(
        None, description="`goodreads_books_*.json.gz`. Null: prompts name no title and no description."
    )
    max_rows: int | None = Field(
        20_000, ge=1, description="Reviews used, drawn reader by reader with all of theirs. Null: all."
    )
    min_words: int = Field(10, ge=1, description="Shorter reviews are left out.")
    max_words: int = Field(200, ge=1, description="Longer reviews are left out.")
    earlier_reviews: int = Field(
        2, ge=0, le=10, description="Most earlier reviews of the reader that a prompt shows, the latest ones."
    )
    description_words: int = Field(
        80, ge=0, description="Words of the book's description in a prompt; the rest is cut off."
    )

    def violations(self) -> Iterator[Violation]:
        """`min_words` and `max_words` enclose something."""
        if self.min_words > self.max_words:
            rule = (
                f"must not be greater than data.source.max_words ({self.max_words}); lower it or raise that"
            )
            yield Violation(("min_words",), self.min_words, rule)
