"""Rewards that compare a completion with a reference answer of its row: in words, in spelling, in meaning."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import ModelError, RewardError
from pgrpo_cli.pretrained.files import check_settings
from pgrpo_cli.pretrained.location import CONFIG, MODULES, POOLING, Location
from pgrpo_cli.recipe.reward_base import PretrainedFields, ReferenceReward, RewardBase
from pgrpo_cli.recipe.reward_text import ChrfReward, RougeReward
from pgrpo_cli.recipe.rewards import EmbeddingReward

from .base import (
    BuildContext,
    Builder,
    Completion,
    RowCheck,
    Score,
    import_extra,
    rating_in,
    required,
    shown,
    texts_in,
    where,
)
from .pretrained import ENCODER, Pretrained, load_pretrained, location_of
from .text import MARKS, UNSPACED, is_blank

Compare = Callable[[Sequence[str], Sequence[str]], Sequence[float]]
"""Takes texts and references, pairwise; gives similarities in [0, 1], NaN where a pair has none."""

Embedder = Callable[[Sequence[str]], list[Any]]
"""From texts to a vector of length 1 for each, as tensors on the CPU."""

_WORD = re.compile(rf"[{UNSPACED}]|(?:[^\W_{UNSPACED}][{MARKS}]*)+")

_POOLING_MODES = {"mean": False, "cls": True}
"""Modes of sentence-transformers that are known here -> whether they take the first token."""
_ANOTHER = "Name another embedding model."


@dataclass(frozen=True)
class SimilarityFunction:
    """The reward of a `ReferenceReward` section, with whatever measures the similarity."""

    section: ReferenceReward
    compare: Compare

    @property
    def parts(self) -> tuple[str, ...]:
        return self.section.parts

    @property
    def part_weights(self) -> dict[str, float]:
        return {"value": 1.0, "similarity": 0.0}

    @property
    def value_range(self) -> tuple[float, float]:
        return (0.0, 1.0)

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        section = self.section
        references = [
            texts_in(completion, section.reference_column, section.label, "reference_column")
            for completion in completions
        ]
        goodness = [self._goodness(completion) for completion in completions]
        texts = [c.text for c, several in zip(completions, references, strict=True) for _ in several]
        similarities = iter(self.compare(texts, [text for several in references for text in several]))
        scores = []
        for completion, several, good in zip(completions, references, goodness, strict=True):
            similarity = _largest([next(similarities) for _ in several])
            value = _rated(similarity, good)
            if is_blank(completion.text) and not math.isnan(value):
                # Nothing is unlike every answer that was disliked, and is no better for it.
                value = 0.0
            scores.append(Score(value, {"value": value, "similarity": similarity}))
        return scores

    def _goodness(self, completion: Completion) -> float:
        """The reference's rating, from -1 for the worst to 1 for the best."""
        section = self.section
        if section.rating_column is None:
            return 1.0
        value = required(completion, section.rating_column, section.label, "rating_column")
        low, high = section.rating_min, section.rating_max
        rating = rating_in(value)
        if rating is None or not low <= rating <= high:
            raise RewardError(
                f"reward {section.label!r}: column {section.rating_column!r} is {shown(value)}, no rating "
                f"from {low:.12g} to {high:.12g}; {where(completion)}",
                remedy="Correct the row, or set `rating_min` and `rating_max` to the scale of the ratings.",
            )
        return 2 * (rating - low) / (high - low) - 1


def build_rouge(section: RougeReward, context: BuildContext) -> SimilarityFunction:
    """The factory of `type: rouge`."""
    return SimilarityFunction(section, lambda texts, references: list(map(rouge_l, texts, references)))


def build_chrf(section: ChrfReward, context: BuildContext) -> SimilarityFunction:
    """The factory of `type: chrf`."""
    metric = import_extra("sacrebleu.metrics", "similarity", section.label).CHRF()

    def chrf(text: str, reference: str) -> float:
        return min(1.0, float(metric.sentence_score(text, [reference]).score) / 100)

    return SimilarityFunction(section, lambda texts, references: list(map(chrf, texts, references)))


def rouge_l(text: str, reference: str) -> float:
    """ROUGE-L (Lin 2004): 2 · LCS / (words of both texts); NaN for a reference without a word."""
    found, wanted = (_WORD.findall(unicodedata.normalize("NFC", t.casefold())) for t in (text, reference))
    if not wanted:
        return math.nan
    return 2 * longest_common_subsequence(found, wanted) / (len(found) + len(wanted))


def longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Its length, bit-parallel (Hyyrö 2004): a bit of `row` for each word of `a`, 0 where it grows."""
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << index
    full = row = (1 << len(a)) - 1
    for word in b:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & full
    return len(a) - row.bit_count()


def _largest(similarities: Sequence[float]) -> float:
    known = [similarity for similarity in similarities if not math.isnan(similarity)]
    return max(known, default=math.nan)


def _rated(similarity: float, goodness: float) -> float:
    """The similarity for goodness 1, 1 - similarity for -1, 0.5 for 0, linear between."""
    return (1 + goodness * (2 * similarity - 1)) / 2


def build_embedding(section: EmbeddingReward, context: BuildContext) -> SimilarityFunction:
    """The factory of `type: embedding`. Raises ModelError where the model cannot be loaded."""
    at = location_of(section, context.recipe_dir, section.label)
    embed = load_embedder(section, at, device=context.device)

    def compare(texts: Sequence[str], references: Sequence[str]) -> list[float]:
        distinct = list(dict.fromkeys((*texts, *references)))
        embeddings = dict(zip(distinct, embed(distinct), strict=True))
        cosines = (
            float(embeddings[text] @ embeddings[reference])
            for text, reference in zip(texts, references, strict=True)
        )
        return [min(1.0, max(0.0, cosine)) for cosine in cosines]

    return SimilarityFunction(section, compare)


def load_embedder(section: PretrainedFields, at: Location, *, device: Any = None) -> Embedder:
    """The sentence embedding model at that place. Raises ModelError.

    It pools as its folder says in the file of sentence-transformers, else by the mean over the tokens.
    `device`: as `load_pretrained` takes it.
    """
    first_token = _pools_first_token(at)
    # The pooler of BERT is not what is averaged.
    model = load_pretrained(ENCODER, section, at, unused="pooler.", device=device)
    return partial(_embed, model, first_token)


def _embed(model: Pretrained, first_token: bool, texts: Sequence[str]) -> list[Any]:
    from torch.nn.functional import normalize

    def pooled(outputs: Any, tensors: Mapping[str, Any]) -> Any:
        states = outputs.last_hidden_state.float()
        if first_token:
            return normalize(states[:, 0], dim=-1)
        mask = tensors["attention_mask"].unsqueeze(-1)
        return normalize((states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1), dim=-1)

    def encode(places: Sequence[int]) -> Mapping[str, Any]:
        return model.tokenized([texts[place] for place in places])

    return model.outputs([len(text) for text in texts], encode, pooled)


def _pools_first_token(at: Location) -> bool:
    """Whether sentence-transformers takes the first token. Raises ModelError for what is not known here."""
    folder = check_settings(at, (CONFIG,))
    types = _read(at, folder / MODULES, lambda modules: [module["type"].split(".")[-1] for module in modules])
    known = ("Transformer", "Pooling", "Normalize")
    if other := [kind for kind in types or () if kind not in known]:
        raise ModelError(
            f"{at.where}: {folder / MODULES} asks for {', '.join(other)}; known are {', '.join(known)}",
            remedy=_ANOTHER,
        )
    used = _read(at, folder / POOLING, _pooling_modes)
    if used is None:
        return False
    if len(used) != 1 or used[0] not in _POOLING_MODES:
        raise ModelError(
            f"{at.where}: {folder / POOLING} asks for {', '.join(used) or 'no pooling'}; known are "
            f"{' and '.join(_POOLING_MODES)}, one at a time",
            remedy=_ANOTHER,
        )
    return _POOLING_MODES[used[0]]


def _pooling_modes(settings: Any) -> list[str]:
    """The modes that are on, in the present form of the file or in the older one with a key for each."""
    if "pooling_mode" in settings:
        mode = settings["pooling_mode"]
        return list(map(str, mode if isinstance(mode, list) else [mode]))
    start = "pooling_mode_"
    on = [key.removeprefix(start) for key, on in settings.items() if key.startswith(start) and on is True]
    return [mode.removesuffix("_tokens").removesuffix("_token") for mode in on]


def _read(at: Location, path: Path, take: Callable[[Any], list[str]]) -> list[str] | None:
    """What `take` finds in the JSON file; None where there is no such file. Raises ModelError."""
    if not path.is_file():
        return None
    try:
        return take(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        raise ModelError(
            f"{at.where}: {path} cannot be read: {error}", remedy="Download the model again."
        ) from error


def row_check(section: ReferenceReward) -> RowCheck:
    """Reads the reference and its rating."""
    function = SimilarityFunction(section, lambda texts, references: [0.0] * len(texts))
    return lambda completion: function([completion])


ROW_CHECKS: dict[type[RewardBase], Callable[[Any], RowCheck]] = dict.fromkeys(
    (RougeReward, ChrfReward, EmbeddingReward), row_check
)
BUILDERS: dict[type[RewardBase], Builder] = {
    RougeReward: build_rouge,
    ChrfReward: build_chrf,
    EmbeddingReward: build_embedding,
}
