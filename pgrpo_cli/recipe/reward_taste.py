"""`rewards` that are learnt from picks."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from .base import PathText
from .reward_base import PretrainedFields, RewardBase


class TasteEmbedding(PretrainedFields):
    """A sentence embedding model whose principal components are features of answers, too."""

    components: int = Field(
        4, ge=1, le=64, description="Principal components of the embeddings of the answers in the picks."
    )


class TasteReward(RewardBase):
    """What a user likes better, learnt from their picks: a Bradley-Terry model over readable features.

    The features are those of the answer's form: its length, sentences, lists, questions, exclamation marks,
    capitals, formality, difficulty, enthusiasm, emoji, sentiment (with `pip install 'pgrpo-cli[text]'`), how
    it addresses the user and takes up the question's words. A weight shared by all users and each user's own
    deviation from it are learnt by penalised logistic regression; a tie is half a win each way. The value is
    1 / (1 + exp(-u)), where u is the user's utility of the answer, in standard deviations of it over the
    answers of the picks; each feature counts
    within the range that it has in them. Whose taste counts is the prompt's preference group, where it has
    picks, or else its user. Users whose picks it cannot predict better than chance are refused. `pgrpo
    rewards try` shows what it has learnt of each user, and what each feature contributes.
    """

    by_preference_group: ClassVar[bool | None] = True
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    type: Literal["taste"] = "taste"
    path: PathText = Field(
        description="A taste.jsonl, as `pgrpo taste` and `pgrpo serve` write it; relative paths start at the "
        "recipe's folder."
    )
    picks_by: Literal["user", "preference_group"] = Field(
        "user", description="Whose a pick is; where the file does not say, it is the other one's."
    )
    users: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Users (or preference groups) whose taste gives rewards; the picks of all others only "
        "tell what is shared. Null: all.",
    )
    embedding: TasteEmbedding | None = Field(
        None, description="Embedding model for further features. Null: only those that can be read."
    )
