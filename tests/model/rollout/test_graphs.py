"""CUDA graphs on a device: replays draw what steps draw. `test_decode.py` replays on a CPU."""

from pathlib import Path

import pytest
import torch

from pgrpo_cli.model.load.from_recipe import load_policy
from pgrpo_cli.model.load.probe import probe
from pgrpo_cli.model.nf4 import nf4_layers
from pgrpo_cli.model.rollout.rounding import COARSE, Rounding
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.model.rollout.sampling import SamplingSettings
from pgrpo_cli.model.rollout.weight_copies import dequantized, rows_from_which_copies_are_faster
from pgrpo_cli.model.rollout.workspace import Workspace
from pgrpo_cli.recipe.schema import Recipe
from tests.support.decoding import assert_same, decoded, stopping_policy
from tests.support.policies import ARCHITECTURES, make_prompts, randomize_adapter
from tests.support.recipes import MINIMAL

pytestmark = pytest.mark.gpu

PROMPTS = make_prompts((70, 5, 9, 31, 7, 90))
SAMPLING = SamplingSettings(4, 100)
SOON = Rounding(exact=False, check_every=4)


def _nf4_policy():
    recipe = Recipe.model_validate(
        {
            **MINIMAL,
            "model": {
                "id": "random",
                "compute_dtype": "bfloat16",
                "random": {"hidden_size": 128, "num_layers": 2},
            },
        }
    )
    policy = load_policy(recipe, recipe_dir=Path("."), device=torch.device("cuda", 0))
    policy.model.generation_config.eos_token_id = list(range(1, policy.config.vocab_size, 30))
    policy.model.eval()
    randomize_adapter(policy, scale=0.05)
    return policy


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_replays_draw_token_for_token_what_steps_draw(architecture):
    policy, workspace = stopping_policy(architecture, torch.float32, stops=40, device="cuda"), Workspace()
    expected = decoded(policy, PROMPTS, SAMPLING)
    assert len({len(ids) for ids, _ in expected}) > 5
    for _ in range(2):
        found = decoded(policy, PROMPTS, SAMPLING, rounding=SOON, workspace=workspace)
        assert_same(found, expected, tolerance=1e-4)
    assert workspace.graphs.failure is None
    # Six prompts leave at the buckets 4, 3, 2 and 1, and 100 tokens pass the buckets 64 and 96.
    assert len(workspace.graphs) >= 3


@pytest.mark.parametrize("copied", [False, True], ids=["packed weights", "copied weights"])
def test_replays_of_an_nf4_model_draw_what_its_steps_draw(copied):
    policy, workspace = _nf4_policy(), Workspace()
    with dequantized(policy.model, num_rows=24 if copied else 1, from_rows=5, kept=workspace.weights):
        assert len(workspace.weights) == (len(nf4_layers(policy.model)) if copied else 0)
        expected = decoded(policy, PROMPTS, SAMPLING, rounding=SOON)
        for _ in range(2):
            assert_same(
                decoded(policy, PROMPTS, SAMPLING, rounding=SOON, workspace=workspace), expected, 1e-2
            )
    assert workspace.graphs.failure is None and len(workspace.graphs) > 0


def test_replays_see_updates_of_the_adapter_and_whether_it_is_on():
    policy = stopping_policy("qwen3", torch.float32, device="cuda")
    workspace = Workspace()
    how = {"rounding": COARSE, "workspace": workspace}
    tuned = decoded(policy, PROMPTS, SAMPLING, **how)
    graphs = len(workspace.graphs)
    with policy.base():
        base = decoded(policy, PROMPTS, SAMPLING, **how)
        assert_same(base, decoded(policy, PROMPTS, SAMPLING), 1e-4)
    assert [ids for ids, _ in base] != [ids for ids, _ in tuned]
    assert len(workspace.graphs) > graphs
    optimizer = torch.optim.AdamW(policy.trainable.values(), lr=0.1)
    policy.model(input_ids=torch.tensor([[3, 4, 5]], device="cuda")).logits.sum().backward()
    optimizer.step()
    updated = decoded(policy, PROMPTS, SAMPLING, **how)
    assert_same(updated, decoded(policy, PROMPTS, SAMPLING), 1e-4)
    assert [ids for ids, _ in updated] != [ids for ids, _ in tuned]


def test_rollouts_replay_across_steps_and_give_their_memory_back():
    policy = stopping_policy("llama", torch.float32, device="cuda")
    sample(policy, PROMPTS, SAMPLING, seed=0)
    policy.workspace.release()
    before = torch.cuda.memory_allocated()
    for seed in (1, 2):
        sample(policy, PROMPTS, SAMPLING, seed=seed)
    assert len(policy.workspace.graphs) > 0
    assert torch.cuda.memory_allocated() >= before + policy.workspace.bytes() > before
    policy.workspace.make_room(policy.device)
    assert len(policy.workspace.graphs) == 0
    assert torch.cuda.memory_allocated() == before
    sample(policy, PROMPTS, SAMPLING, seed=3)
    graphs = len(policy.workspace.graphs)
    # An update has been seen, and this device has room for both.
    policy.workspace.make_room(policy.device)
    assert len(policy.workspace.graphs) == graphs > 0


def test_a_capture_that_breaks_off_costs_neither_the_step_nor_the_allocator(monkeypatch):
    policy, workspace = stopping_policy("llama", torch.float32, device="cuda"), Workspace()
    expected = decoded(policy, PROMPTS, SAMPLING, rounding=SOON)
    original = type(policy).logits

    def waiting(self, hidden):
        hidden.sum().item()
        return original(self, hidden)

    monkeypatch.setattr(type(policy), "logits", waiting)
    stream = torch.cuda.current_stream()
    with pytest.warns(RuntimeWarning, match="without CUDA graphs"):
        found = decoded(policy, PROMPTS, SAMPLING, rounding=SOON, workspace=workspace)
    assert_same(found, expected, 1e-4)
    assert workspace.graphs.failure is not None and len(workspace.graphs) == 0
    assert torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()
    torch.empty(2**28, device="cuda").fill_(1)


def test_the_probe_finds_graphs_exact():
    for architecture in ("llama", "gemma3_text"):
        paths = probe(stopping_policy(architecture, torch.float32, device="cuda"))
        assert (paths.shared_prefix, paths.graphs, paths.reason) == (True, True, None)


def test_both_products_of_nf4_layers_are_timed():
    found = rows_from_which_copies_are_faster(_nf4_policy().model)
    assert found is None or found in (2, 4, 8, 16, 32, 64, 128, 256)
