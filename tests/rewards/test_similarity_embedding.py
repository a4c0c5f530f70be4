"""Likeness in meaning, by a tiny random encoder: its numbers mean nothing, but can be computed by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.errors import ModelError, RewardError
from pgrpo_cli.recipe.rewards import EmbeddingReward
from pgrpo_cli.rewards.base import BuildContext, Completion
from pgrpo_cli.rewards.similarity import build_embedding
from tests.support.reward_models import save_encoder, save_roberta

TEXTS = ("a dog", "the very long walk home", "", "cat")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


def built(folder: Path, **section):
    return build_embedding(
        EmbeddingReward(model=str(folder), **section), BuildContext(Path(), allow_code=False)
    )


def similarities(function, reference, *texts):
    completions = [Completion("p1", "fans", "", text, {"reference": reference}) for text in texts]
    return [score.parts["similarity"] for score in function(completions)]


def states(folder, text):
    """[tokens, width] of one text by itself."""
    from transformers import AutoTokenizer, BertModel

    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.inference_mode():
        return model(**AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")).last_hidden_state[0]


def cosine(a, b):
    return max(0.0, (a @ b / (a.norm() * b.norm())).item())


def test_the_mean_over_the_tokens_whatever_shares_the_batch(encoder: Path) -> None:
    reference = states(encoder, "a cat sat").mean(dim=0)
    expected = [cosine(states(encoder, text).mean(dim=0), reference) for text in TEXTS]
    assert len({round(value, 3) for value in expected}) > 2
    for batch_size in (1, 16):
        found = similarities(built(encoder, batch_size=batch_size), "a cat sat", *TEXTS)
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_text_longer_than_the_positions_of_a_roberta_loses_its_beginning(tmp_path: Path) -> None:
    function = built(save_roberta(tmp_path / "roberta"))
    assert similarities(function, "a cat " * 40, "a cat " * 50) == pytest.approx([1], abs=1e-5)


def test_a_text_is_as_like_itself_as_can_be(encoder: Path) -> None:
    assert similarities(built(encoder), ["a cat", "dogs"], "a cat", "dogs") == pytest.approx([1, 1])


def test_a_rating_turns_the_similarity(encoder: Path) -> None:
    function = built(encoder, rating_column="liked")
    (score,) = function([Completion("p1", "fans", "", "a cat", {"reference": "a cat", "liked": False})])
    assert score.value == pytest.approx(0, abs=1e-6)


def pooling(encoder: Path, folder: Path, text: str) -> Path:
    shutil.copytree(encoder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    "modes",
    [
        {
            "word_embedding_dimension": 16,
            "pooling_mode_cls_token": True,
            "pooling_mode_mean_tokens": False,
        },
        {"embedding_dimension": 16, "pooling_mode": "cls", "include_prompt": True},
        {"embedding_dimension": 16, "pooling_mode": ["cls"]},
    ],
)
def test_the_folder_may_ask_for_the_first_token(encoder: Path, tmp_path: Path, modes: dict[str, Any]) -> None:
    folder = pooling(encoder, tmp_path / "cls", json.dumps(modes))
    expected = [cosine(states(encoder, text)[0], states(encoder, "a cat sat")[0]) for text in TEXTS]
    assert similarities(built(folder), "a cat sat", *TEXTS) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"pooling_mode_max_tokens": true}', "asks for max; known are mean and cls"),
        ('{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}', "one at a time"),
        ('{"pooling_mode": ["mean", "cls"]}', "asks for mean, cls; .* one at a time"),
        ('{"pooling_mode": "lasttoken"}', "asks for lasttoken; known are"),
        ("{}", "asks for no pooling"),
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
    ],
)
def test_other_pooling_is_refused(encoder: Path, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        built(pooling(encoder, tmp_path / "other", text))


def test_the_mean_may_be_asked_for_in_the_present_form(encoder: Path, tmp_path: Path) -> None:
    folder = pooling(encoder, tmp_path / "mean", '{"pooling_mode": "mean"}')
    with_modules(folder, "base.models.transformer.Transformer", "models.Pooling", "models.Normalize")
    assert similarities(built(folder), "a cat", *TEXTS) == similarities(built(encoder), "a cat", *TEXTS)


def with_modules(folder: Path, *types: str) -> None:
    modules = [{"idx": i, "type": f"sentence_transformers.{name}"} for i, name in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(modules))


def test_layers_after_pooling_are_refused(encoder: Path, tmp_path: Path) -> None:
    folder = pooling(encoder, tmp_path / "dense", '{"pooling_mode_cls_token": true}')
    with_modules(folder, "models.Transformer", "models.Pooling", "models.Dense", "models.Normalize")
    with pytest.raises(ModelError, match=r"modules\.json asks for Dense; known are Transformer, Pooling"):
        built(folder)
    (folder / "modules.json").write_text('{"type": 1}')
    with pytest.raises(ModelError, match=r"modules\.json cannot be read"):
        built(folder)


def test_a_missing_reference_is_an_error(encoder: Path) -> None:
    with pytest.raises(RewardError, match="'embedding': the data lack column 'reference'"):
        built(encoder)([Completion("p1", "fans", "", "a", {})])
