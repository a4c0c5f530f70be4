from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel

from pgrpo_cli.data.preference_groups import ASSIGNERS, AssignContext, assign
from pgrpo_cli.data.preference_groups.centroids import nearest_group
from pgrpo_cli.data.preference_groups.user_features import load_embedder
from pgrpo_cli.errors import ModelError
from pgrpo_cli.recipe.data import ClusterGroups
from tests.support.records import source_record
from tests.support.tokenizer import byte_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny BERT with random weights, saved as a user would."""
    path = tmp_path_factory.mktemp("embedder")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=512,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_an_embedding_is_the_mean_of_a_texts_states_whatever_else_is_in_its_batch(folder):
    embed = load_embedder(str(folder), Path())
    texts = ["short", "a much longer text than the other"]
    together = embed(texts)
    assert together.shape == (2, 16)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1])
    assert np.concatenate([embed([text]) for text in texts]) == pytest.approx(together, abs=1e-5)
    ids = torch.tensor([byte_tokenizer()("short", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        mean = BertModel.from_pretrained(folder)(ids).last_hidden_state[0].mean(dim=0)
    assert together[0] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


def test_a_text_beyond_the_models_length_is_cut(folder):
    embed = load_embedder(str(folder), Path())
    assert embed(["x" * 5000]) == pytest.approx(embed(["x" * 512]), abs=1e-6)


def test_users_are_clustered_by_it_and_named_by_their_words(folder):
    texts = {"a": "aaaa aaa", "z": "zzzz zzz"}
    records = [source_record(f"{texts[taste]} {n}", f"{taste}{n}") for taste in "az" for n in range(6)]
    section = ClusterGroups(features="embedding", model=folder.name, count=2, n_init=2)
    fitted = ASSIGNERS["cluster"](section, AssignContext(folder.parent)).fit(records)
    grouped, _ = assign(records, fitted.group_of)
    names = [record.preference_group for record in grouped]
    assert sorted(map(set, (names[:6], names[6:])), key=min) == [{"aaa, aaaa"}, {"zzz, zzzz"}]
    assert fitted.stored["model"] == folder.name
    vector = load_embedder(str(folder), Path())(["aaaa aaa 7"])[0]
    assert nearest_group(fitted.stored, vector) == names[0]
    (new,), _ = assign([source_record("zzzz zzz", "new")], fitted.group_of)
    assert new.preference_group == names[6]


def test_pickled_weights_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save(BertModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        load_embedder(str(tmp_path), Path())


def test_a_folder_without_a_model_is_refused():
    with pytest.raises(ModelError, match="no folder 'gone'"):
        load_embedder("gone", Path())
