"""`rewards` that compare a completion with a reference answer of its row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from .messages import KeyPath
from .reward_base import RewardBase
from .reward_pretrained import PretrainedFields
from .violation import Violation


class ReferenceReward(RewardBase):
    """Fields of every reward that compares with a reference.

    The part `similarity` is the similarity s itself, in [0, 1]. The value is s too, where no rating is named.
    """

    parts: ClassVar[tuple[str, ...]] = ("value", "similarity")
    value_range: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    reference_column: str = Field(
        "reference",
        description="Column with the reference answer, or a list of them, of which the most similar counts.",
    )
    rating_column: str | None = Field(
        None,
        description="Column that says how good the reference is: a number, or true and false (1 and 0). "
        "The value goes from the similarity s for the best through 0.5 to 1 - s for the worst. "
        "Null: every reference is a good one.",
    )
    rating_min: float = Field(0.0, description="The worst rating.")
    rating_max: float = Field(1.0, description="The best rating.")

    def violations(self, path: KeyPath) -> Iterator[Violation]:
        """A scale has two ends, and rates something."""
        low, high = self.rating_min, self.rating_max
        if low >= high:
            rule = f"must be less than rating_max ({high:.12g}); swap them"
            yield Violation((*path, "rating_min"), low, rule)
        elif self.rating_column is None and (low, high) != (0, 1):
            rule = "rating_min and rating_max are those of a column: name it, or leave them out"
            yield Violation((*path, "rating_column"), None, rule)


class RougeReward(ReferenceReward):
    """Likeness in words to a reference: ROUGE-L, the F1 of the longest common subsequence of words.

    Case and punctuation do not count; Chinese, Japanese and Thai characters are words of their own. A
    reference without a word gives no reward. Rows with a column `reference`: `{type: rouge}`; with a text and
    a thumb: `{type: rouge, reference_column: answer, rating_column: thumbs_up}`.
    """

    type: Literal["rouge"] = "rouge"


class ChrfReward(ReferenceReward):
    """Likeness in spelling to a reference: chrF (sacrebleu), the F2 of character n-grams up to six.

    It suits languages with many forms of a word, and sees a near miss that ROUGE does not. Rows with a column
    `reference`: `{type: chrf}`. Needs `pip install 'pgrpo-cli[similarity]'`.
    """

    type: Literal["chrf"] = "chrf"


class EmbeddingReward(PretrainedFields, ReferenceReward):
    """Likeness in meaning to a reference: the cosine of two sentence embeddings, negative ones as 0.

    The embedding is the mean over the tokens, or the first token's where the model's folder says so
    (`1_Pooling/config.json` of sentence-transformers). Rows with a column `reference`:
    `{type: embedding, model: sentence-transformers/all-MiniLM-L6-v2}`.
    """

    type: Literal["embedding"] = "embedding"


SimilaritySection = RougeReward | ChrfReward | EmbeddingReward
