import torch

from pgrpo_cli.model.rollout.buffers import StaticBuffers
from pgrpo_cli.model.rollout.workspace import Workspace, adapter_is_on, fits_beside_updates, weight_addresses
from pgrpo_cli.pretrained.memory import release_caches
from tests.support.policies import tiny_policy

GB = 10**9


def test_equal_shapes_lie_at_equal_addresses_until_one_is_too_large():
    buffers, like = StaticBuffers(), torch.zeros(0)
    first = buffers.empty("keys", (2, 3, 4), like)
    first.fill_(7)
    assert buffers.bytes() == 24 * 4
    addresses = buffers.addresses()
    again = buffers.empty("keys", (3, 4), like)
    assert again.data_ptr() == first.data_ptr() and (again == 7).all() and again.is_contiguous()
    assert buffers.addresses() == addresses
    larger = buffers.empty("keys", (5, 5), like)
    assert buffers.addresses() != addresses and buffers.bytes() == 25 * 4 and larger.shape == (5, 5)
    assert buffers.empty("keys", (5, 5), torch.zeros(0, dtype=torch.float64)).dtype == torch.float64
    buffers.clear()
    assert (buffers.bytes(), buffers.addresses()) == (0, ())


def test_what_is_stored_is_copied_to_its_place():
    buffers = StaticBuffers()
    place = buffers.empty("lines", (4,), torch.zeros(0, dtype=torch.long))
    stored = buffers.store("lines", torch.tensor([3, 4]))
    assert stored.data_ptr() == place.data_ptr()
    assert place[:2].tolist() == [3, 4]


def test_training_and_switching_the_adapter_off_moves_no_weight():
    policy = tiny_policy("llama", torch.float32)
    optimizer = torch.optim.AdamW(policy.trainable.values(), lr=0.1)
    before = weight_addresses(policy.model)
    for _ in range(2):
        policy.model(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with policy.base():
        assert not adapter_is_on(policy.model)
    assert adapter_is_on(policy.model)
    assert weight_addresses(policy.model) == before
    parameter = next(iter(policy.trainable.values()))
    parameter.data = parameter.data.clone()
    assert weight_addresses(policy.model) != before


def test_a_workspace_stays_where_the_largest_need_so_far_leaves_room():
    # 80 GB, of which a fifth stays free: 64 GB for what is held and the peak.
    assert fits_beside_updates(held=20 * GB, peak=44 * GB, total=80 * GB)
    assert not fits_beside_updates(held=20 * GB, peak=44 * GB + 1, total=80 * GB)


def test_whoever_is_in_need_of_memory_gets_what_workspaces_keep():
    release_caches()
    workspace, other = Workspace(), Workspace()
    assert not release_caches()
    workspace.buffers.empty("keys", (4,), torch.zeros(0))
    other.weights[0] = torch.zeros(3)
    assert release_caches()
    assert (workspace.bytes(), other.bytes()) == (0, 0)
    del other
    assert not release_caches()
