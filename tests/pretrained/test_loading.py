"""The one rule by which models load: for the policy, for rewards and for sentence embeddings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pgrpo_cli.data.preference_groups.user_features import load_embedder
from pgrpo_cli.errors import ModelError
from pgrpo_cli.model.load.base_model import load_base_model, load_tokenizer
from pgrpo_cli.model.load.random_model import random_tokenizer
from pgrpo_cli.pretrained.loading import check_vocabulary, load_config, load_model
from pgrpo_cli.pretrained.location import located
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.rewards import RewardModelReward
from pgrpo_cli.rewards.base import BuildContext
from pgrpo_cli.rewards.reward_model import build_reward_model
from tests.support.reward_models import (
    save_causal,
    save_chat_classifier,
    save_encoder,
    save_gguf,
)

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 400\n"
CPU = torch.device("cpu")


def as_policy(folder: Path) -> None:
    section = ModelSection.model_validate({"id": str(folder), "quantization": {"type": "none"}})
    load_tokenizer(section, folder)
    load_base_model(section, folder, CPU)


def as_reward(folder: Path) -> None:
    build_reward_model(RewardModelReward(model=str(folder)), BuildContext(folder, allow_code=False))


def as_embedder(folder: Path) -> None:
    load_embedder(str(folder), folder)


LOADERS = {
    "policy": (save_causal, as_policy),
    "reward": (save_chat_classifier, as_reward),
    "embedder": (save_encoder, as_embedder),
}
every_loader = pytest.mark.parametrize("kind", LOADERS)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole model of each kind."""
    return {kind: save(tmp_path_factory.mktemp(kind)) for kind, (save, _) in LOADERS.items()}


@pytest.fixture
def copied(saved, tmp_path):
    return lambda kind: Path(shutil.copytree(saved[kind], tmp_path / "copy"))


def refused(kind, folder):
    with pytest.raises(ModelError) as caught:
        LOADERS[kind][1](folder)
    assert caught.value.exit_code == 2
    assert caught.value.remedy
    return caught.value.message


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@every_loader
def test_what_is_whole_loads(copied, kind):
    LOADERS[kind][1](copied(kind))


@every_loader
def test_weights_that_are_missing_would_be_random(copied, kind):
    folder = copied(kind)
    names = []
    change_weights(folder, lambda weights: names.append(weights.popitem()[0]))
    assert "lacks weights that Auto" in (said := refused(kind, folder))
    assert names[0].rpartition("layers.")[2] in said


def test_an_untied_output_layer_that_is_missing_is_named(copied):
    folder = copied("policy")
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    assert "the checkpoint lacks weights that AutoModelForCausalLM needs: lm_head.weight" in refused(
        "policy", folder
    )


def test_a_tied_output_layer_is_not_missing(tmp_path):
    folder = save_causal(tmp_path, tied=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    as_policy(folder)


@every_loader
def test_weights_of_another_shape_are_named_with_both_shapes(copied, kind):
    folder = copied(kind)

    def shorten(weights):
        name = next(name for name in sorted(weights) if "norm.weight" in name.lower())
        weights[name] = weights[name][:-1].clone()

    change_weights(folder, shorten)
    assert "(15 in the checkpoint, 16 in the model)" in refused(kind, folder)


def test_weights_that_the_model_does_not_have_are_left_alone(copied):
    folder = copied("policy")
    change_weights(folder, lambda weights: weights.update(vision_tower=torch.zeros(2)))
    as_policy(folder)


@every_loader
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_called_that(copied, kind, name):
    folder = copied(kind)
    (folder / name).write_bytes(POINTER)
    said = refused(kind, folder)
    assert f"{folder / name} is a Git LFS pointer" in said


@every_loader
@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
@pytest.mark.parametrize("kept", [0, 0.5, 0.99])
def test_a_file_that_was_cut_is_incomplete(copied, kind, name, kept):
    folder = copied(kind)
    whole = (folder / name).read_bytes().rstrip()
    (folder / name).write_bytes(whole[: int(kept * len(whole))])
    assert f"{folder / name} is incomplete or no" in refused(kind, folder)


@every_loader
@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors", "bitsandbytes", None])
def test_a_quantized_checkpoint_is_refused_by_its_method(copied, kind, method):
    folder = copied(kind)
    change_json(folder / "config.json", quantization_config={"quant_method": method, "bits": 4})
    assert f"is quantized already ({method})" in refused(kind, folder)


def test_nf4_weights_load_where_the_recipe_says_nf4(copied):
    folder = copied("policy")
    nf4 = ModelSection.model_validate({"id": str(folder), "compute_dtype": "float32"})
    quantized = load_base_model(nf4, folder, CPU)
    expected = quantized(torch.tensor([[1, 2, 3]])).logits
    tokenizer = random_tokenizer()
    shutil.rmtree(folder)
    quantized.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    again = load_base_model(nf4, folder, CPU)
    assert torch.equal(again(torch.tensor([[1, 2, 3]])).logits, expected)
    assert "is quantized to 4 bits already" in refused("policy", folder)


@every_loader
@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize(
    "name",
    ["x.bin", "../x.safetensors", "..\\x.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "x.pt"],
)
def test_an_index_leads_to_safetensors_in_its_folder_alone(copied, kind, index, name, monkeypatch):
    folder = copied(kind)
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "x.bin")
    torch.save(weights, folder / "x.pt")
    (folder / "model.safetensors").unlink()
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)}))
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: pytest.fail("pickle"))
    said = refused(kind, folder)
    assert f"names {name!r}" in said if index.startswith("model") else "lacks model.safetensors" in said


@every_loader
def test_shards_load(copied, kind):
    folder = copied(kind)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first = sorted(weights)[0]
    save_file({first: weights[first]}, folder / "model-1.safetensors", metadata={"format": "pt"})
    rest = {name: weight for name, weight in weights.items() if name != first}
    save_file(rest, folder / "model-2.safetensors", metadata={"format": "pt"})
    places = {name: f"model-{1 if name == first else 2}.safetensors" for name in weights}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    LOADERS[kind][1](folder)
    (folder / "model-2.safetensors").unlink()
    assert "lacks model-2.safetensors" in refused(kind, folder)
    index.write_text("[]")
    assert "lists no weights" in refused(kind, folder)


@pytest.mark.parametrize("file", ["adapter_model.bin", "other.safetensors"])
def test_a_configuration_cannot_name_the_file_of_weights(copied, file):
    folder = copied("policy")
    change_json(folder / "config.json", transformers_weights=file)
    assert "names a file of weights" in refused("policy", folder)


def test_an_adapter_in_the_folder_is_not_loaded_unseen(copied):
    folder = copied("policy")
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json" in refused("policy", folder)
    save_gguf(folder / "model.gguf")
    section = ModelSection(id=str(folder / "model.gguf"))
    with pytest.raises(ModelError, match=r"has an adapter_config\.json"):
        load_base_model(section, folder, CPU)


def test_a_configuration_cannot_name_a_kernel_of_the_hub(copied):
    folder = copied("reward")
    change_json(folder / "config.json", attn_implementation="someone/kernel")
    as_reward(folder)
    assert load_config(located("model.id", str(folder), folder))._attn_implementation is None


@every_loader
@pytest.mark.parametrize(
    "change",
    [{"model_type": "strange"}, {"hidden_size": "x"}, {"num_attention_heads": 0}, {"hidden_size": -1}],
)
def test_a_configuration_that_is_none_is_a_message(copied, kind, change):
    folder = copied(kind)
    change_json(folder / "config.json", **change)
    assert "cannot be loaded" in refused(kind, folder)


def test_nothing_is_printed(copied, capfd, caplog):
    folder = copied("policy")
    change_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    refused("policy", folder)
    assert "REPORT" not in capfd.readouterr().err + caplog.text


def test_a_gguf_file_that_was_cut(tmp_path):
    path = Path(tmp_path / "cut.gguf")
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(100))
    section = ModelSection(id=str(path))
    for load in (lambda: load_base_model(section, tmp_path, CPU), lambda: load_tokenizer(section, tmp_path)):
        with pytest.raises(ModelError, match="cannot be loaded: the file is incomplete"):
            load()
    path.write_bytes(POINTER)
    with pytest.raises(ModelError, match="Git LFS pointer"):
        load_tokenizer(section, tmp_path)
    path.write_bytes(b"zip")
    with pytest.raises(ModelError, match="is no GGUF file"):
        load_tokenizer(section, tmp_path)


def test_a_gguf_file_may_leave_out_a_tied_output_layer_and_nothing_else(tmp_path):
    def load(without):
        path = save_gguf(tmp_path / "model.gguf", without=without)
        section = ModelSection.model_validate({"id": str(path), "quantization": {"type": "none"}})
        return load_base_model(section, tmp_path, CPU)

    assert not load("").config.tie_word_embeddings
    assert load("output").config.tie_word_embeddings
    with pytest.raises(ModelError, match=r"lacks weights that AutoModelForCausalLM needs: .*q_proj\.weight"):
        load("blk.0.attn_q")


@pytest.mark.parametrize(("rows", "fits"), [(258, True), (257, False)])
def test_every_ordinary_token_needs_a_row_of_the_embedding(rows, fits):
    # 2 special tokens and one for each of 256 bytes.
    tokenizer = random_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    if fits:
        check_vocabulary("model.id", tokenizer, rows)
        return
    with pytest.raises(ModelError, match="its tokenizer has 258 tokens and its embedding 257 rows"):
        check_vocabulary("model.id", tokenizer, rows)


def test_options_reach_transformers(saved):
    at = located("model.id", str(saved["policy"]), Path())
    model = load_model(at, "AutoModelForCausalLM", attn_implementation="eager", dtype=torch.float64)
    assert model.config._attn_implementation == "eager"
    assert model.dtype == torch.float64
