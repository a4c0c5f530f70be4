"""Models with random weights, made layer by layer: of the published sizes, and like those that are loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from pgrpo_cli.model.load.base_model import rebuild
from pgrpo_cli.model.nf4 import dequantize, nf4_layers
from pgrpo_cli.selfcheck.shapes import SHAPES, PlainTokenizer, build_base, usual_shape
from pgrpo_cli.selfcheck.subject import Subject
from tests.support.gpus import fake_gpus

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "linear", "tables"),
    [
        # A layer of 8B: q and o 4096·4096, k and v 4096·1024, three of 4096·12288; 36 layers. Two tables.
        ("8b", 36 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 12288), 2 * 151_936 * 4096),
        ("1.7b", 28 * (2 * 2048**2 + 2 * 2048 * 1024 + 3 * 2048 * 6144), 151_936 * 2048),
    ],
)
def test_published_sizes(name: str, linear: int, tables: int) -> None:
    shape = SHAPES[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config())
    norms = shape.layers * (2 * shape.hidden + 2 * shape.head_size) + shape.hidden
    assert sum(p.numel() for p in model.parameters()) == linear + tables + norms


def test_a_built_model_is_as_transformers_would_load_it(new_subject: Subject) -> None:
    shape, section = SHAPES["tiny"], new_subject.recipe().model
    built = build_base(shape, section, CPU)
    layers = nf4_layers(built)
    # q, k, v, o, gate, up, down.
    assert len(layers) == 7 * shape.layers
    values = {name: p.data for name, p in built.named_parameters()}
    for name, module in built.named_modules():
        if module in layers:
            values[f"{name}.weight"] = dequantize(module)
    plain = AutoModelForCausalLM.from_config(shape.config(), dtype=torch.bfloat16)
    plain.load_state_dict(values, strict=False)
    plain.tie_weights()
    loaded = rebuild(plain, section, CPU)
    ids = torch.arange(2, 40).unsqueeze(0)
    with torch.no_grad():
        ours, theirs = built(input_ids=ids).logits, loaded(input_ids=ids).logits
    # The weights of the loaded one have been quantized twice, which moves them by a rounding of bfloat16.
    assert ours.std() > 0.1
    assert (ours - theirs).abs().max() < 0.1 * ours.std()
    for attribute in ("compute_dtype", "quant_state"):
        ours_, theirs_ = (type(getattr(nf4_layers(m)[0], attribute)) for m in (built, loaded))
        assert ours_ is theirs_
    assert built.is_loaded_in_4bit and built.dtype == torch.bfloat16


def test_a_model_is_the_same_every_time(new_subject: Subject) -> None:
    section = new_subject.recipe().model
    before = torch.random.get_rng_state()
    one = build_base(SHAPES["tiny"], section, CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    other = build_base(SHAPES["tiny"], section, CPU)
    for mine, yours in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, yours)


def test_untied_tables_differ(new_subject: Subject) -> None:
    model = build_base(replace(SHAPES["tiny"], tied=False), new_subject.recipe().model, CPU)
    head, table = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert head.data_ptr() != table.data_ptr() and not torch.equal(head, table)


@pytest.mark.parametrize(("gib", "name"), [(24, "8b"), (12, "8b"), (10.9, "1.7b"), (6, "1.7b"), (4, "tiny")])
def test_a_gpu_gets_the_largest_shape_that_it_holds(
    monkeypatch: pytest.MonkeyPatch, gib: float, name: str
) -> None:
    fake_gpus(monkeypatch, (8, 6))
    total = type("Properties", (), {"total_memory": int(gib * 2**30)})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: total)
    assert usual_shape(torch.device("cuda", 0)).name == name
    assert usual_shape(CPU).name == "tiny"


def test_no_completion_ends_by_itself_and_texts_differ_in_length(subject: Subject) -> None:
    tokenizer = PlainTokenizer(512)
    # 3 % 7 = 3, 8 % 7 = 1, 14 % 7 = 0.
    assert tokenizer.decode([3, 8, 14]) == "xxxx"
    assert subject.policy.stop_token_ids == (512,)
