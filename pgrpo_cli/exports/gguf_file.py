"""Writes a GGUF file from another one: its metadata and tensors, some of them changed, quantized anew.

The `gguf` package quantizes and reads; which numbers a tensor gets is decided here.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import (
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quant_shape_to_byte_shape,
)
from gguf.constants import GGML_QUANT_SIZES, MODEL_ARCH_NAMES
from gguf.quants import dequantize, quantize

from pgrpo_cli.errors import ExportError

TYPES = {name: Type[name.upper()] for name in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")}
_FILE_TYPES = {"f32": LlamaFileType.ALL_F32} | {
    name: LlamaFileType[f"MOSTLY_{name.upper()}"] for name in TYPES if name != "f32"
}
_PLAIN = (Type.F32, Type.F16, Type.BF16)
_COARSE = ("q5_1", "q5_0", "q4_1", "q4_0")
# They count for much and are small beside the rest: 8 bits at least, as llama.cpp's own quantizer has it.
_FINE = ("token_embd.weight", "output.weight")
# Small tensors of two and more dimensions that llama.cpp's own quantizer leaves as they are, like all that
# are no `.weight`: llama.cpp computes some of them in float32 only, such as short convolutions.
_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp|conv1d|shortconv\.conv\.|time_mix_(first|[wvag]\d|decay_w|lerp_fused)|altup|laurel"
    r"|per_layer_model_proj|position_embd|token_types|attn_rel_b"
)
_WRITTEN_ANEW = (
    *("GGUF.", "general.architecture", "general.file_type", "general.quantization_version"),
    # A run does not sample with its base model's penalties and filters.
    "general.sampling.",
)
_QUANTIZATION_VERSION = 2

Weight = Callable[[], np.ndarray]
"""Makes numbers for a tensor, of its shape, float32."""


@dataclass(frozen=True)
class Gguf:
    """A GGUF file that is read. Raises ExportError for one of an architecture that `gguf` does not know."""

    path: Path

    @cached_property
    def reader(self) -> Any:
        """The file, mapped into memory."""
        return GGUFReader(self.path)

    @cached_property
    def architecture(self) -> str:
        """Its name, such as `llama`."""
        return str(self.value("general.architecture"))

    @cached_property
    def _tensors(self) -> dict[str, Any]:
        return {tensor.name: tensor for tensor in self.reader.tensors}

    def value(self, key: str) -> Any:
        """What the metadata say; None where they do not."""
        field = self.reader.fields.get(key)
        return None if field is None else field.contents()

    def name_of(self, module: str) -> str:
        """The tensor of a module of transformers. Raises ExportError if there is none."""
        name = self._names.get_name(module, try_suffixes=(".weight", ".bias"))
        if name is None or f"{name}.weight" not in self._tensors:
            raise ExportError(
                f"{self.path.name} has no tensor for {module}, which the adapter changes",
                remedy="Export with --to merged, and convert that folder with llama.cpp's converter.",
            )
        return f"{name}.weight"

    @cached_property
    def _names(self) -> Any:
        known = {name: number for number, name in MODEL_ARCH_NAMES.items()}
        if self.architecture not in known:
            raise ExportError(
                f"{self.path.name} is of the architecture {self.architecture[:40]!r}, which the installed "
                "gguf does not know",
                remedy="Install a newer gguf, or export with --to merged.",
            )
        blocks = self.value(f"{self.architecture}.block_count")
        return get_tensor_name_map(known[self.architecture], int(blocks or 0))

    def weight(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        tensor = self._tensors[name]
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)


def rewrite(
    source: Gguf,
    path: Path,
    quantization: str,
    *,
    weights: Mapping[str, Weight] | None = None,
    changes: Mapping[str, Weight] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write `source` to `path` with other tensors and metadata.

    `weights` take the place of tensors, and then `changes` are added. Changed tensors get the type
    `quantization`, and so do those that are not quantized yet, except for vectors and small tensors. Others
    keep their numbers: to quantize what is quantized already only loses.
    """
    weights, changes = weights or {}, changes or {}
    changed = weights.keys() | changes.keys()
    writer = _Writer(path, source.architecture)
    _copy_metadata(source, writer, metadata or {})
    writer.add_file_type(_FILE_TYPES[quantization])
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    types = {
        tensor.name: _type_of(tensor, quantization, changed=tensor.name in changed)
        for tensor in source.reader.tensors
    }
    for tensor in source.reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        size = prod(quant_shape_to_byte_shape(shape, types[tensor.name]))
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), size, types[tensor.name])
    _written(
        writer,
        (
            _data(source, t, types[t.name], weights.get(t.name), changes.get(t.name))
            for t in source.reader.tensors
        ),
    )


def write_new(path: Path, architecture: str, values: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Write a file of these metadata and float32 or float16 arrays, each with the type that it is to have."""
    writer = _Writer(path, architecture)
    for key, value in values.items():
        add_value(writer, key, value)
    for name, (array, wanted) in tensors.items():
        size = prod(quant_shape_to_byte_shape(array.shape, wanted))
        writer.add_tensor_info(name, array.shape, np.dtype(np.float32), size, wanted)
    _written(writer, (_bytes(array, wanted) for array, wanted in tensors.values()))


class _Writer(GGUFWriter):
    def _pack_val(self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
        """Also of an empty array, which a tokenizer without merges has and `gguf` refuses."""
        if vtype is not GGUFValueType.ARRAY or len(val):
            return super()._pack_val(val, vtype, add_vtype, sub_type)
        kind = GGUFValueType.STRING if sub_type is None else sub_type
        return (self._pack("I", vtype) if add_vtype else b"") + self._pack("I", kind) + self._pack("Q", 0)


def add_value(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add metadata of the type that its Python value has."""
    kinds = {bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32}
    if isinstance(value, list):
        kind = GGUFValueType.INT32 if value and isinstance(value[0], int) else GGUFValueType.STRING
        writer.add_key_value(key, value, GGUFValueType.ARRAY, kind)
    else:
        writer.add_key_value(key, value, kinds.get(type(value), GGUFValueType.STRING))


def _copy_metadata(source: Gguf, writer: GGUFWriter, metadata: Mapping[str, Any]) -> None:
    for key, field in source.reader.fields.items():
        if key.startswith(_WRITTEN_ANEW) or key in metadata:
            continue
        kind, *inner = field.types
        writer.add_key_value(key, field.contents(), kind, inner[-1] if inner else None)
    for key, value in metadata.items():
        add_value(writer, key, value)


def _type_of(tensor: Any, quantization: str, *, changed: bool) -> Type:
    own = Type(tensor.tensor_type)
    kept = len(tensor.shape) < 2 or not tensor.name.endswith(".weight") or _KEPT.search(tensor.name)
    if kept if own in _PLAIN else not changed:
        return own
    if quantization in _COARSE and tensor.name in _FINE:
        quantization = "q8_0"
    wanted = TYPES[quantization]
    # Rows that are no whole number of blocks are not quantized.
    if int(tensor.shape[0]) % GGML_QUANT_SIZES[wanted][0] == 0:
        return wanted
    return own if own in _PLAIN else Type.F16


def _data(source: Gguf, tensor: Any, wanted: Type, other: Weight | None, change: Weight | None) -> np.ndarray:
    if other is None and change is None and Type(tensor.tensor_type) is wanted:
        return np.asarray(tensor.data)
    weight = source.weight(tensor.name) if other is None else other()
    if change is not None:
        weight = weight + change()
    if not np.isfinite(weight).all():
        raise ExportError(
            f"{tensor.name} holds numbers that are not finite", remedy="The run's adapter is damaged."
        )
    return _bytes(weight, wanted)


def _bytes(array: np.ndarray, wanted: Type) -> np.ndarray:
    return np.ascontiguousarray(quantize(np.ascontiguousarray(array, dtype=np.float32), wanted))


def _written(writer: GGUFWriter, arrays: Any) -> None:
    """Write all that has been added, and the data of the tensors in the same order."""
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for array in arrays:
            writer.write_tensor_data(array)
        writer.close()
    except OSError as error:
        # numpy does not say why it wrote less than it was given: there was no more room.
        if error.errno is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
