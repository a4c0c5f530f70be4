"""Configuration, tokenizer and weights of a pretrained model, all by the same rule.

Files must be complete and on this machine, weights must be safetensors or GGUF, and no code of the model is
run. Every weight of the model must be in the checkpoint with the right shape; transformers would initialise
others randomly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from pgrpo_cli.errors import ModelError

from .files import check_settings, check_weights
from .location import CONFIG, TOKENIZER, Location, first_line, quiet

Result = TypeVar("Result")

_SHOWN = 3
_LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


def load_config(at: Location) -> Any:
    """The model's configuration, read without its weights. Raises ModelError."""
    from transformers import AutoConfig

    folder = check_settings(at)
    config = _explained(at, lambda: AutoConfig.from_pretrained(**_place(at, folder)))
    _refuse_settings(at, config)
    # The configuration may name an attention kernel of a hub, which is code.
    config._attn_implementation = None
    return config


def load_tokenizer(at: Location) -> Any:
    """The tokenizer of the model, with a padding token. Raises ModelError."""
    from transformers import AutoTokenizer

    folder = check_settings(at, (CONFIG, *TOKENIZER))
    tokenizer = _explained(at, lambda: AutoTokenizer.from_pretrained(**_place(at, folder)))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{at.shown}: its tokenizer has neither a padding nor an end token",
            remedy="Set a pad_token in its tokenizer_config.json.",
        )
    return tokenizer


def load_model(at: Location, factory: str, *, unused: str | None = None, **options: Any) -> Any:
    """Load a model with the transformers class `factory`; `options` are passed to its `from_pretrained`.

    `unused`: the prefix of weights that may be missing from the checkpoint, because they are not used. Raises
    ModelError.
    """
    import transformers

    folder = check_weights(at)
    if not at.gguf_file:
        config = load_config(at)
        _refuse_unquantized(at, config, options.get("quantization_config"))
        options = {**options, "config": config, "use_safetensors": True}
    make = getattr(transformers, factory)
    model, info = _explained(
        at,
        lambda: make.from_pretrained(
            **_place(at, folder), **options, output_loading_info=True, ignore_mismatched_sizes=True
        ),
    )
    missing = (key for key in info["missing_keys"] if unused is None or not key.startswith(unused))
    _refuse_weights(at, factory, "lacks weights that", missing)
    mismatched = (
        f"{name} ({_shape(found)} in the checkpoint, {_shape(needed)} in the model)"
        for name, found, needed in info["mismatched_keys"]
    )
    _refuse_weights(at, factory, "has other shapes of weights than", mismatched)
    return model


def check_vocabulary(shown: str, tokenizer: Any, rows: int) -> None:
    """Raise ModelError if tokens of ordinary text have no row in the embedding.

    Special tokens without a row are common and mostly never used. Prompts that use them are refused one by
    one.
    """
    added = tokenizer.get_added_vocab()
    largest = max((index for token, index in tokenizer.get_vocab().items() if token not in added), default=0)
    if largest >= rows:
        raise ModelError(
            f"{shown}: its tokenizer has {largest + 1} tokens and its embedding {rows} rows, so that some "
            "tokens have no embedding",
            remedy="Use the tokenizer that the model was trained with.",
        )


def _place(at: Location, folder: Path) -> dict[str, Any]:
    gguf = {"gguf_file": at.gguf_file} if at.gguf_file else {}
    return {"pretrained_model_name_or_path": str(folder), **gguf, **_LOCAL}


def _refuse_settings(at: Location, config: Any) -> None:
    """Raise ModelError for a configuration that names other files or an unsupported quantization."""
    if getattr(config, "transformers_weights", None) is not None:
        raise ModelError(
            f"{at.shown}: its config.json names a file of weights (transformers_weights)",
            remedy="Save the model again with save_pretrained, or name another one.",
        )
    method, four_bit = _quantized(config)
    # 4-bit weights of bitsandbytes are supported, since `quantization` makes the same.
    if method and not at.gguf_file and not (method == "bitsandbytes" and four_bit):
        raise ModelError(
            f"{at.shown} is quantized already ({method[:40]}), which is not loaded",
            remedy="Name the original model; `quantization` quantizes it while it loads.",
        )


def _quantized(config: Any) -> tuple[str | None, bool]:
    """The quantization method of the checkpoint (or None), and whether it is bitsandbytes with 4 bits."""
    section = getattr(config, "quantization_config", None)
    if section is None:
        return None, False
    settings = section if isinstance(section, dict) else vars(section)
    return str(settings.get("quant_method")), bool(settings.get("load_in_4bit"))


def _refuse_unquantized(at: Location, config: Any, wanted: Any) -> None:
    """Raise ModelError for 4-bit weights if the recipe has no quantization."""
    if wanted is None and _quantized(config)[0]:
        raise ModelError(
            f"{at.shown} is quantized to 4 bits already, and its `quantization` in the recipe is none",
            remedy="Set that to {type: nf4}, or name the original model.",
        )


def _explained(at: Location, load: Callable[[], Result]) -> Result:
    """The result of `load`, without messages of the libraries. Turns every error into ModelError."""
    try:
        with quiet(bars=True):
            return load()
    # Damaged or hostile files can make the libraries raise any exception.
    except Exception as error:
        what = "the file is incomplete, or none that transformers can read: " if at.gguf_file else ""
        raise ModelError(
            f"{at.shown} cannot be loaded: {what}{first_line(error)}",
            remedy="Check the id or path. Weights must be safetensors or GGUF; models that need remote code, "
            "and pickled weights, are not loaded.",
        ) from error


def _refuse_weights(at: Location, factory: str, what: str, names: Iterable[str]) -> None:
    found = sorted(names)
    if found:
        shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if found[_SHOWN:] else "")
        raise ModelError(
            f"{at.shown}: the checkpoint {what} {factory} needs: {shown}",
            remedy="Name a checkpoint that was saved from this architecture for this task.",
        )


def _shape(size: Any) -> str:
    return "x".join(map(str, size))
