"""`data.source` for public preference data sets, whose columns are known and need not be mapped."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from .base import Section
from .path_text import PathText

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
