"""The licence of the base model, where its files say it: it binds whoever passes the export on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from pgrpo_cli.pretrained.location import locate
from pgrpo_cli.recipe.model import ModelSection

_NAME = re.compile(r"(?i)(licen[cs]e|notice)(\.(md|txt))?")
_MOST = 1 << 20
_SHORT = 100


def write_licence(section: ModelSection, recipe_dir: Path, folder: Path) -> str | None:
    """Copy the licence files that lie beside the base model into `folder`.

    Returns the name of the licence, such as apache-2.0, or of the file, or None where neither is known.
    """
    if section.id == "random":
        return None
    at = locate(section, recipe_dir)
    source = at.files()
    if at.gguf_file:
        return _of_gguf(source / at.gguf_file)
    copied = []
    for path in sorted(source.iterdir()):
        if _NAME.fullmatch(path.name) and path.is_file() and path.stat().st_size <= _MOST:
            shutil.copyfile(path, folder / path.name)
            copied.append(path.name)
    return copied[0] if copied else None


def _of_gguf(path: Path) -> str | None:
    from gguf import GGUFReader

    field = GGUFReader(path).fields.get("general.license")
    found = field.contents() if field is not None else None
    return found[:_SHORT] if isinstance(found, str) else None
