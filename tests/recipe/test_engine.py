"""`engine`: chosen by a type, and what TRL cannot express is refused with its key and the reason."""

from __future__ import annotations

import pytest

from tests.support.recipes import changed, load_data, problems_of

TRL = {"type": "trl"}
HUB = {"id": "some/model", "quantization": {"type": "none"}}


def test_the_native_engine_is_the_default_and_a_type_takes_another(tmp_path):
    assert load_data(tmp_path, changed()).engine.type == "native"
    recipe = load_data(tmp_path, changed(), "engine.type=trl", "engine.args.dataloader_num_workers=2")
    assert (recipe.engine.type, recipe.engine.args) == ("trl", {"dataloader_num_workers": 2})


def test_keys_of_the_other_engine_are_refused(tmp_path):
    (problem,) = problems_of(tmp_path, changed(engine={"type": "native", "args": {}}))
    assert problem.path == ("engine", "args") and "'trl' has it" in problem.text


REFUSED = {
    "adapter.dropout": ({"adapter__dropout": 0.1}, "dropout on"),
    "rollout.tokens_per_batch": ({"rollout__tokens_per_batch": 4096}, "together"),
    "history.preference_groups": ({"history__preference_groups": "random"}, "set it to named"),
    "train.deterministic": ({"train__deterministic": True}, "full_determinism"),
    "eval.every": ({"eval__every": 5}, "--checkpoint"),
    "model.compute_dtype": ({"model__compute_dtype": "float16"}, "bfloat16 or float32"),
    "model.device": ({"model__device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
    "engine.vllm": ({"engine__vllm": {"mode": "colocate"}}, "from a hub or a folder"),
    "engine.vllm ": ({"model": {**HUB, "device": "cpu"}, "engine__vllm": {}}, "needs a GPU"),
    "engine.vllm.mode": (
        {"model": {"id": "some/model"}, "engine__vllm": {"mode": "server"}},
        "packed to 4 bits",
    ),
    "engine.vllm.server_base_url": (
        {"model": HUB, "engine__vllm": {"server_base_url": "http://localhost:1"}},
        "only a server",
    ),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_trl_cannot_express_is_refused(tmp_path, key):
    values, reason = REFUSED[key]
    (problem,) = problems_of(tmp_path, changed(**{"engine__type": "trl", **values}))
    assert ".".join(problem.path) == key.strip() and reason in problem.text
    # The native engine does it.
    if not key.startswith("engine"):
        assert problems_of(tmp_path, changed(**values)) == ()


def test_vllm_on_a_hub_model_is_accepted(tmp_path):
    for vllm in ({"mode": "colocate"}, {"mode": "server", "server_base_url": "http://10.0.0.2:8000"}):
        assert problems_of(tmp_path, changed(model=HUB, engine={**TRL, "vllm": vllm})) == ()
