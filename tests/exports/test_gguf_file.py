"""Which tensors of a GGUF file get the type that is wanted, and which keep their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pgrpo_cli.exports.gguf_file import Gguf, Type, rewrite, write_new


@pytest.mark.parametrize("quantization", ["f16", "q4_0"])
def test_what_llama_cpp_never_quantizes_keeps_its_type(tmp_path: Path, quantization: str) -> None:
    shapes = {
        # Short convolutions, routers, states and norms: some have rows of whole blocks of 32 numbers.
        "blk.0.shortconv.conv.weight": (64, 3),
        "blk.0.ssm_conv1d.weight": (64, 4),
        "blk.0.ssm_conv1d_q.weight": (64, 32),
        "blk.0.ffn_gate_inp.weight": (4, 64),
        "blk.0.ffn_gate_inp_shexp.weight": (1, 64),
        "blk.0.ssm_a": (1, 32),
        "blk.0.ssm_norm.weight": (2, 32),
        "blk.0.time_mix_w1.weight": (32, 64),
        "blk.0.attn_norm.weight": (64,),
        "blk.0.ffn_down.weight": (64, 64),
        "blk.0.shortconv.in_proj.weight": (192, 64),
        "blk.0.ssm_in.weight": (64, 64),
        "blk.0.time_mix_key.weight": (64, 64),
    }
    tensors = {name: (np.ones(shape, np.float32), Type.F32) for name, shape in shapes.items()}
    write_new(tmp_path / "base.gguf", "lfm2", {}, tensors)
    rewrite(
        Gguf(tmp_path / "base.gguf"),
        tmp_path / "out.gguf",
        quantization,
        # An adapter may be on a router.
        changes={"blk.0.ffn_gate_inp.weight": lambda: np.ones((4, 64), np.float32)},
    )
    out = Gguf(tmp_path / "out.gguf")
    changed = [tensor.name for tensor in out.reader.tensors if tensor.tensor_type is not Type.F32]
    assert changed == list(shapes)[-4:]
    assert out.weight("blk.0.ffn_gate_inp.weight").max() == 2


def test_rows_that_are_no_whole_blocks_keep_their_type(tmp_path: Path) -> None:
    tensors = {
        "blk.0.ffn_up.weight": (np.ones((64, 40), np.float32), Type.F32),
        "blk.1.ffn_up.weight": (np.ones((64, 40), np.float32), Type.BF16),
    }
    write_new(tmp_path / "base.gguf", "llama", {}, tensors)
    rewrite(Gguf(tmp_path / "base.gguf"), tmp_path / "out.gguf", "q8_0")
    types = [tensor.tensor_type for tensor in Gguf(tmp_path / "out.gguf").reader.tensors]
    assert types == [Type.F32, Type.BF16]
