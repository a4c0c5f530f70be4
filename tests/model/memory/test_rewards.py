"""Models of rewards in a plan: the bytes that they really hold, from their configurations alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.memory.plan import REWARDS
from pgrpo_cli.model.memory.planner import Planner
from pgrpo_cli.model.memory.rewards import reward_bytes
from pgrpo_cli.model.nf4 import nf4_layers
from pgrpo_cli.recipe.reward_base import PretrainedFields
from pgrpo_cli.recipe.rewards import EmbeddingReward, RewardModelReward, TasteEmbedding, TasteReward
from pgrpo_cli.rewards.pretrained import CLASSIFIER, ENCODER, load_pretrained, location_of
from tests.support.memory_plans import nf4_held, recipe_for
from tests.support.reward_models import save_chat_classifier, save_encoder, save_pair_classifier


def held(section: PretrainedFields, factory: str) -> int:
    """Bytes of the model that the reward loads."""
    model = load_pretrained(factory, section, location_of(section, Path(), "it"), unused="pooler.").model
    layers = {id(layer.weight): nf4_held(layer) for layer in nf4_layers(model)}
    tensors = [*model.parameters(), *model.buffers()]
    return sum(layers.get(id(t), t.numel() * t.element_size()) for t in tensors)


def classifier(folder: Path, **settings: Any) -> RewardModelReward:
    return RewardModelReward(type="reward_model", model=str(folder), **settings)


@pytest.mark.parametrize("save", [save_chat_classifier, save_pair_classifier])
def test_a_classifier_takes_what_it_holds(save: Any, tmp_path: Path) -> None:
    section = classifier(save(tmp_path / "model"))
    assert reward_bytes([section], tmp_path, "cpu") == held(section, CLASSIFIER)


@pytest.mark.parametrize("double", [True, False])
def test_an_nf4_classifier_takes_what_it_holds(double: bool, tmp_path: Path) -> None:
    folder = save_chat_classifier(tmp_path / "model", hidden_size=128)
    section = classifier(folder, quantization={"type": "nf4", "double": double})
    assert reward_bytes([section], tmp_path, "cpu") == held(section, CLASSIFIER)
    assert reward_bytes([classifier(folder)], tmp_path, "cpu") > 3 * held(section, CLASSIFIER)


def test_the_embedding_model_of_a_taste_counts(tmp_path: Path) -> None:
    folder = str(save_encoder(tmp_path / "model"))
    taste = TasteReward(path="taste.jsonl", embedding=TasteEmbedding(model=folder))
    assert reward_bytes([taste], tmp_path, "cpu") == held(EmbeddingReward(model=folder), ENCODER)
    assert reward_bytes([TasteReward(path="taste.jsonl")], tmp_path, "cpu") == 0


def test_a_gpu_keeps_the_checkpoints_type(tmp_path: Path) -> None:
    from transformers import AutoConfig

    folder = save_chat_classifier(tmp_path / "model")
    whole = reward_bytes([classifier(folder)], tmp_path, "cpu")
    assert reward_bytes([classifier(folder)], tmp_path, "cuda") == whole
    config = AutoConfig.from_pretrained(folder)
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    assert 2 * reward_bytes([classifier(folder)], tmp_path, "cuda") == whole
    assert reward_bytes([classifier(folder)], tmp_path, "cpu") == whole


def test_it_stands_in_all_phases_of_a_plan(tmp_path: Path) -> None:
    save_encoder(tmp_path / "encoder")
    embedding = {"type": "embedding", "model": "encoder"}
    section = EmbeddingReward(**embedding)
    size = held(section.model_copy(update={"model": str(tmp_path / "encoder")}), ENCODER)
    plain = Planner(tmp_path).plan(recipe_for(None), "cpu")
    planned = Planner(tmp_path).plan(
        recipe_for(None, rewards=[embedding, {"type": "length", "max": 9}]), "cpu"
    )
    assert [phase.parts[REWARDS] for phase in planned.phases] == [size] * 3
    assert planned.tensors == plain.tensors + size


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"reward 'reward_model': 'no/where' is not a folder here"):
        reward_bytes([classifier(Path("no/where"))], tmp_path, "cpu")
