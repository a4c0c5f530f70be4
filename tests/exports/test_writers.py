"""`pgrpo export`, as it is typed: every format of a tiny run."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gguf import GGUFReader
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from pgrpo_cli.data.conditioning import presets
from pgrpo_cli.data.prepared import load_prepared
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.eval.alignment import policy_of
from pgrpo_cli.eval.targets import eval_target
from pgrpo_cli.exports.gguf_file import Gguf, rewrite
from pgrpo_cli.exports.job import presets_of
from pgrpo_cli.exports.lora_tensors import LoraTensor
from pgrpo_cli.exports.merged import bake
from pgrpo_cli.exports.random_gguf import write_random
from pgrpo_cli.exports.reference import reference
from pgrpo_cli.model.load.random_model import random_model, random_tokenizer
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.pretrained.location import Location
from pgrpo_cli.recipe.model import ModelSection, RandomModel
from pgrpo_cli.state.run import run_at
from tests.exports.conftest import SHAPE
from tests.support.training import TINY, pgrpo, trained, write_tiny


@pytest.fixture(scope="module")
def run_of_a_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose base model is the folder `base` beside its recipe, with ways to sample of its own."""
    folder = tmp_path_factory.mktemp("based")
    model = random_model(RandomModel(**SHAPE))
    model.generation_config = GenerationConfig(
        do_sample=True, repetition_penalty=1.3, min_new_tokens=5, top_k=20, eos_token_id=1, pad_token_id=1
    )
    model.save_pretrained(folder / "base")
    random_tokenizer().save_pretrained(folder / "base")
    (folder / "base" / "LICENSE").write_text("Free.")
    section = {"id": "./base", "quantization": {"type": "none"}, "compute_dtype": "float32"}
    recipe = write_tiny(folder, model=section, train={**TINY["train"], "steps": 2, "learning_rate": 0.05})
    trained(recipe, folder / "run")
    return folder / "run"


def exported(run: Path, to: str, folder: Path, *options: object) -> dict[str, object]:
    """What --json says."""
    result = pgrpo("export", run, "--to", to, "--output", folder, "--json", "--quiet", *options)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_merged_answers_in_plain_transformers(run: Path, tmp_path: Path) -> None:
    said = exported(run, "merged", tmp_path / "out")
    assert set(said["checked"]) == {"prompts", "greedy_equal", "mean_abs_logprob_difference"}
    assert said["checked"]["prompts"] == said["checked"]["greedy_equal"] > 2
    assert said["checked"]["mean_abs_logprob_difference"] < 1e-5
    assert sorted(map(Path, said["files"])) == sorted((tmp_path / "out").iterdir())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert model.generation_config.eos_token_id == [1]
    prompt = load_prepared(run, "train")[0]
    ids = tokenizer.apply_chat_template(list(prompt.messages), add_generation_prompt=True)["input_ids"]
    assert tuple(ids) == prompt.input_ids
    assert model.dtype == torch.float32


def test_merged_answers_without_the_penalties_of_the_base_model(
    run_of_a_folder: Path, tmp_path: Path
) -> None:
    exported(run_of_a_folder, "merged", tmp_path / "out")
    found = run_at(run_of_a_folder)
    target = eval_target(found, found.recipe(), found.recipe_dir)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    settings = merged.generation_config
    assert (settings.do_sample, settings.temperature, settings.top_p, settings.top_k) == (True, 0.6, 1.0, 0)
    for answer in reference(target, policy_of(target, torch.device("cpu"))):
        prompt = torch.tensor([answer.prompt.input_ids])
        made = merged.generate(prompt, do_sample=False, max_new_tokens=len(answer.tokens))[0]
        assert made[prompt.shape[1] :].tolist() == list(answer.tokens)


def test_a_run_that_changed_nothing_is_exported_with_a_note(tmp_path: Path) -> None:
    still = {**TINY["train"], "steps": 1, "learning_rate": 1e-9}
    model = {**TINY["model"], "random": SHAPE}
    trained(write_tiny(tmp_path, model=model, train=still), tmp_path / "run")
    result = pgrpo("export", tmp_path / "run", "--to", "gguf", "--quantization", "f32")
    assert result.exit_code == 0, result.stderr
    assert "training has changed nothing measurable" in result.stderr


def test_the_checkpoint_and_the_type_that_are_named(run: Path, tmp_path: Path) -> None:
    exported(run, "merged", tmp_path / "out", "--step", "4", "--quantization", "bf16")
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (record["step"], record["quantization"], record["run"]) == (4, "bf16", "run")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_adapter_is_what_bare_peft_loads(run: Path, tmp_path: Path) -> None:
    said = exported(run, "adapter", tmp_path / "out")
    assert said["checked"]["mean_abs_logprob_difference"] < 1e-5
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "random"


def test_peft_finds_the_base_model_of_an_adapter_from_any_folder(
    run_of_a_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(run_of_a_folder, "adapter", tmp_path / "out")
    assert (tmp_path / "out" / "LICENSE").read_text() == "Free."
    # A folder of this machine is no base model to a hub.
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license_link: LICENSE\n" in card and "base_model:" not in card
    monkeypatch.chdir("/")
    assert AutoPeftModelForCausalLM.from_pretrained(str(tmp_path / "out")).peft_config


def test_an_adapter_names_the_revision_of_a_hub_model(
    run_of_a_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = Location("model.id", "owner/name", revision="v1.0")
    monkeypatch.setattr("pgrpo_cli.exports.writers.locate", lambda section, recipe_dir: at)
    exported(run_of_a_folder, "adapter", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "v1.0")


def test_by_default_it_lands_in_the_run(run: Path) -> None:
    result = pgrpo("export", run, "--to", "adapter")
    assert result.exit_code == 0
    assert str(run / "export" / "adapter" / "adapter_model.safetensors") in result.stdout
    assert "Loaded again by PEFT" in result.stderr
    # The directory is a run still.
    assert pgrpo("doctor", run).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "adapter", "--quantization", "q8_0"), "saved as it was trained"),
        (("--to", "merged", "--quantization", "q8_0"), "f32, bf16, f16"),
        (("--to", "gguf", "--quantization", "q4_k_m"), "q8_0, f16"),
        (("--to", "onnx"), "is not one of"),
    ],
)
def test_what_a_format_does_not_have_is_refused(
    run: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    message: str,
) -> None:
    result = pgrpo("export", run, *options, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_no_run_is_a_message(tmp_path: Path) -> None:
    result = pgrpo("export", tmp_path / "nothing", "--to", "merged")
    assert result.exit_code == 2
    assert "no such run" in result.stderr


@pytest.mark.parametrize("quantization", ["q8_0", "f16", "bf16", "f32", "q4_0"])
def test_gguf_answers_in_llama_cpp_as_the_run_does(run: Path, tmp_path: Path, quantization: str) -> None:
    said = exported(run, "gguf", tmp_path / "out", "--quantization", quantization)
    # Rounding to f32 is none: what is left is the order of additions.
    bound = {"f32": 1e-4, "f16": 2e-3, "bf16": 2e-2, "q8_0": 2e-2, "q4_0": 0.2}[quantization]
    assert said["checked"]["mean_abs_logprob_difference"] < bound
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["checked"]["by"] == "llama.cpp (xllamacpp)"
    assert (tmp_path / "out" / "model.gguf").is_file()
    types = {tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out" / "model.gguf").tensors}
    # The embedding is never coarser than 8 bits, and norms stay as they are.
    assert types == {quantization.upper(), "F32"} | ({"Q8_0"} if quantization == "q4_0" else set())


@pytest.mark.parametrize("to", ["gguf", "gguf-lora"])
def test_a_command_that_is_shown_can_be_typed(run: Path, tmp_path: Path, to: str) -> None:
    folder = tmp_path / "my export; it's"
    result = pgrpo("export", run, "--to", to, "--quantization", "f32", "--output", folder)
    assert result.exit_code == 0, result.stderr
    (command,) = re.findall(r"llama-cli .*", result.stdout + result.stderr)
    assert str(next(folder.glob("*.gguf"))) in shlex.split(command)


@pytest.mark.parametrize("quantization", ["f32", "f16"])
def test_gguf_lora_is_what_llama_cpp_applies(run: Path, tmp_path: Path, quantization: str) -> None:
    said = exported(run, "gguf-lora", tmp_path / "out", "--quantization", quantization)
    assert said["checked"]["mean_abs_logprob_difference"] < 2e-3
    names = {tensor.name for tensor in GGUFReader(tmp_path / "out" / "lora.gguf").tensors}
    assert {"blk.0.attn_q.weight.lora_a", "blk.1.ffn_down.weight.lora_b"} <= names


@pytest.mark.parametrize("to", ["gguf", "gguf-lora"])
def test_without_llama_cpp_the_file_is_read_otherwise_and_that_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setattr("pgrpo_cli.exports.llama_cpp.is_installed", lambda: False)
    said = exported(run, to, tmp_path / "out", "--quantization", "f32")
    assert said["checked"]["mean_abs_logprob_difference"] < 1e-4
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert "transformers" in record["checked"]["by"]


def test_a_gguf_file_as_base_model_is_changed_in_place_of_being_converted(run: Path, tmp_path: Path) -> None:
    # The tiny model's own file, so that the run's adapter fits; its path is all that the recipe changes.
    base = Gguf(tmp_path / "base.gguf")
    sampling = {"general.sampling.top_k": 20, "general.sampling.penalty_repeat": 1.3}
    rewrite(write_random(RandomModel(**SHAPE), tmp_path / "plain.gguf"), base.path, "f32", metadata=sampling)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text())
    recipe["model"]["id"] = str(base.path)
    head = (copy / "recipe.yaml").read_text().partition("\n")[0]
    (copy / "recipe.yaml").write_text(f"{head}\n{yaml.safe_dump(recipe, sort_keys=False)}")
    said = exported(copy, "gguf", tmp_path / "out", "--quantization", "f32")
    assert said["checked"]["mean_abs_logprob_difference"] < 1e-4
    merged = Gguf(tmp_path / "out" / "model.gguf")
    assert not np.array_equal(merged.weight("blk.0.attn_q.weight"), base.weight("blk.0.attn_q.weight"))
    assert np.array_equal(merged.weight("token_embd.weight"), base.weight("token_embd.weight"))
    # It samples as `pgrpo chat` does, not as its base model.
    settings = {
        name: merged.value(f"general.sampling.{name}") for name in ("top_k", "min_p", "penalty_repeat")
    }
    assert settings == {"top_k": 0, "min_p": 0.0, "penalty_repeat": None}
    assert merged.value("general.sampling.temp") == pytest.approx(0.6)


def test_what_does_not_answer_as_the_run_does_is_no_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoraTensor, "change", lambda self: np.float32(0))
    result = pgrpo("export", run, "--to", "gguf", "--quantization", "f32", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "adapter was not applied" in result.stderr
    assert not any(tmp_path.iterdir())


def test_a_chat_template_of_the_recipe_goes_into_the_file_with_its_variables(
    run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "templated"
    folder.mkdir()
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}{{ mark }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant"
    )
    model = {
        **TINY["model"],
        "random": SHAPE,
        "chat_template": template,
        "chat_template_kwargs": {"mark": "!"},
    }
    recipe = write_tiny(folder, model=model, train={**TINY["train"], "steps": 1})
    trained(recipe, folder / "run")
    said = exported(folder / "run", "gguf", tmp_path / "gguf")
    assert said["checked"]["mean_abs_logprob_difference"] < 0.02
    exported(folder / "run", "merged", tmp_path / "merged")
    text = AutoTokenizer.from_pretrained(tmp_path / "merged").apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False
    )
    assert text == "<|im_start|>user!\nHi<|im_end|>\n<|im_start|>assistant"


@pytest.mark.parametrize("beginning", ["", "\n", "\n\n", "  ", "\n  "])
@pytest.mark.parametrize(
    "first", ["{% if mark %}", "{{ mark }}{% if mark %}", "{%- if mark %}", "Hi {% if mark %}"]
)
def test_variables_of_the_template_leave_its_beginning_as_it_is(beginning: str, first: str) -> None:
    template = f"{beginning}{first}{{{{ messages[0].content }}}}{{% endif %}}"
    values = {"mark": "!", "on": True, "no": None, "some": [1, "%}"]}
    tokenizer = random_tokenizer()
    tokenizer.chat_template = template
    asked = [{"role": "user", "content": "Tea?"}]
    due = Chat(tokenizer, "it", values).text(asked)
    baked = bake(tokenizer, ModelSection(id="random", chat_template_kwargs=values))
    assert Chat(baked, "it").text(asked) == due
    assert baked.apply_chat_template(asked, tokenize=False) == due


@pytest.mark.parametrize("to", ["adapter", "merged", "gguf"])
def test_a_template_that_writes_other_prompts_is_no_export(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    def otherwise(tokenizer: Any, section: ModelSection) -> Any:
        tokenizer.chat_template = f"Otherwise. {tokenizer.get_chat_template()}"
        return tokenizer

    monkeypatch.setattr("pgrpo_cli.exports.llama_cpp.is_installed", lambda: False)
    for module in ("merged", "gguf_writers"):
        monkeypatch.setattr(f"pgrpo_cli.exports.{module}.bake", otherwise)
    result = pgrpo("export", run, "--to", to, "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "the exported chat template writes the prompt" in result.stderr
    assert not any(tmp_path.iterdir())


def test_a_run_whose_template_writes_the_date_is_exported_on_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (
        "In {{ strftime_now('%Y') }}.\n{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    model = {**TINY["model"], "random": SHAPE, "chat_template": template}
    trained(write_tiny(tmp_path, model=model, train={**TINY["train"], "steps": 1}), tmp_path / "run")
    tokenizer = random_tokenizer()

    def long_ago(run: Path, split: str) -> list[PreparedPrompt]:
        texts = [(p, re.sub(r"^In \d+", "In 2001", p.prompt)) for p in load_prepared(run, split)]
        return [replace(p, prompt=text, input_ids=tuple(tokenizer(text)["input_ids"])) for p, text in texts]

    monkeypatch.setattr("pgrpo_cli.exports.reference.load_prepared", long_ago)
    for to in ("merged", "gguf"):
        exported(tmp_path / "run", to, tmp_path / to)


def test_presets_of_all_groups_take_one_pass_over_the_data(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def load(run: Path, half: str) -> list[PreparedPrompt]:
        reads.append(half)
        return load_prepared(run, half)

    monkeypatch.setattr(presets, "load_prepared", load)
    found = run_at(run)
    made, more = presets_of(eval_target(found, found.recipe(), found.recipe_dir))
    assert ([preset.preference_group for preset in made], more) == (["often", "seldom", "é"], 0)
    assert len(reads) <= 2


def test_ollama_has_a_preset_for_each_preference_group(run: Path, tmp_path: Path) -> None:
    said = exported(run, "ollama", tmp_path / "out")
    assert said["checked"]["mean_abs_logprob_difference"] < 2e-2
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "Modelfile",
        "Modelfile.group",
        "Modelfile.often",
        "Modelfile.seldom",
        "README.md",
        "export.json",
        "model.gguf",
        "presets.json",
    ]
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith("FROM ./model.gguf\nTEMPLATE")
    assert 'PARAMETER stop "<|im_end|>"' in text
    # One name is not ASCII.
    assert set(json.loads((tmp_path / "out" / "presets.json").read_text())) == {"often", "seldom", "é"}
