import torch

from pgrpo_cli.model.update.packing import Row, attention_mask, micro_batches, pack, whole_rows
from tests.support.policies import made_up_rollouts


class _Config:
    _attn_implementation = "sdpa"
    layer_types = None


def test_a_row_by_hand():
    """
    A prompt of 3 tokens with completions of 3 and 2: the last token of each predicts nothing.

        tokens    p0 p1 p2 | a0 a1 | b0
        segment    0  0  0 |  1  1 |  2
        position   0  1  2 |  3  4 |  3
    """
    rollouts = made_up_rollouts([3], [3, 2])
    prompt, ids = rollouts.prompts[0].input_ids, rollouts.completion_ids_N_T
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    assert packed.input_ids_R_L.tolist() == [[*prompt, ids[0, 0], ids[0, 1], ids[1, 0]]]
    assert packed.segments_R_L.tolist() == [[0, 0, 0, 1, 1, 2]]
    assert packed.position_ids_R_L.tolist() == [[0, 1, 2, 3, 4, 3]]
    # a0 is predicted at p2, a1 at a0, a2 at a1; b0 at p2, b1 at b0.
    assert packed.source_M.tolist() == [2, 3, 4, 2, 5]
    assert packed.target_M.tolist() == [*ids[0].tolist(), *ids[1, :2].tolist()]
    assert packed.row_M.tolist() == [0, 0, 0, 1, 1]
    assert packed.column_M.tolist() == [0, 1, 2, 0, 1]


def test_the_mask_by_hand():
    packed = pack(whole_rows(made_up_rollouts([2], [2, 2])), made_up_rollouts([2], [2, 2]), pad_token_id=1)
    mask = attention_mask(packed, _Config, torch.float32, torch.device("cpu"))[0, 0].int().tolist()
    #       p0 p1 a0 b0
    assert mask == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]


def test_the_window_counts_positions_not_columns():
    class Sliding(_Config):
        layer_types = ("sliding_attention", "full_attention")
        sliding_window = 2

    rollouts = made_up_rollouts([2], [3, 3])
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    masks = attention_mask(packed, Sliding, torch.float32, torch.device("cpu"))
    # Columns p0 p1 a0 a1 b0 b1, positions 0 1 2 3 2 3: b0 sees p1 (distance 1) although a0, a1 stand between.
    assert masks["sliding_attention"][0, 0, 4].int().tolist() == [0, 1, 0, 0, 1, 0]
    assert masks["sliding_attention"][0, 0, 5].int().tolist() == [0, 0, 0, 0, 1, 1]
    assert masks["full_attention"][0, 0, 5].int().tolist() == [1, 1, 0, 0, 1, 1]


def test_a_window_without_kinds_of_layers_is_that_of_every_layer():
    class Windowed(_Config):
        sliding_window = 2

    rollouts = made_up_rollouts([2], [3, 3])
    packed = pack(whole_rows(rollouts), rollouts, pad_token_id=1)
    mask = attention_mask(packed, Windowed, torch.float32, torch.device("cpu"))
    # The second token of the second completion, at position 3, sees itself and the first, but not the prompt.
    assert mask[0, 0, 5].int().tolist() == [0, 0, 0, 0, 1, 1]


def test_micro_batches_hold_every_completion_once_within_the_budget():
    rollouts = made_up_rollouts([5, 30, 8, 12], [4, 9, 2, 7, 1, 1, 8, 3])
    for budget in (20, 45, 70, 1000):
        groups = list(micro_batches(rollouts, budget))
        seen = sorted(n for group in groups for row in group for n in row.completions)
        assert seen == list(range(8))
        for group in groups:
            tokens = len(group) * max(row.length for row in group)
            alone = len(group) == 1 and len(group[0].completions) == 1
            assert tokens <= budget or alone


def test_a_prompt_too_long_for_the_budget_is_split():
    # 10 + 3 fits into 16 with one completion of 4 tokens only: 10 + 3 + 3 = 16, 10 + 3 + 3 + 3 = 19.
    rollouts = made_up_rollouts([10], [4, 4, 4])
    assert list(micro_batches(rollouts, 16)) == [[Row(0, (0, 1), 16)], [Row(0, (2,), 13)]]
