"""fingerprint.json: what a run depends on besides its recipe, so that changes are noticed when it resumes.

The parts are hashes of contents, without paths and times, so they do not change if a run is copied or
renamed. The versions of libraries are stored too. Other versions may change rounding, so they give a warning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pgrpo_cli import __version__
from pgrpo_cli.data.manifest import read_manifest
from pgrpo_cli.data.strict_json import read_json
from pgrpo_cli.errors import RunError
from pgrpo_cli.paths import path_of, sha256
from pgrpo_cli.pretrained.location import CONFIG, SETTINGS, TOKENIZER, Location, locate
from pgrpo_cli.recipe.model import ModelSection
from pgrpo_cli.recipe.reward_base import RewardBase
from pgrpo_cli.recipe.rewards import PythonReward, TasteReward, pretrained_in

from .checksums import sha256_of_code
from .files import explained, write_json
from .run import RunDirectory

_VERSION = 1
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
_WHOLE = 64 << 20
"""Files of weights up to this size are hashed completely."""
_BLOCK, _BLOCKS = 64 << 10, 256


@dataclass(frozen=True)
class Fingerprint:
    """`parts`: hashes by name; `versions`: those of packages; `accepted`: changes accepted by the user."""

    parts: dict[str, str]
    versions: dict[str, str]
    accepted: list[dict[str, Any]] = field(default_factory=list)


def fingerprint_of(
    run: RunDirectory, model: ModelSection, rewards: Sequence[RewardBase], recipe_dir: Path
) -> Fingerprint:
    """The current fingerprint of the run. Models must have been loaded before, so that hub models are in the
    cache.
    """
    from pgrpo_cli.rewards.pretrained import location_of

    manifest = read_manifest(run.path)
    parts = {"data": manifest["data_hash"] if manifest else ""}
    parts |= base_model_parts(model, recipe_dir)
    for index, reward in enumerate(rewards):
        if isinstance(reward, PythonReward):
            where = f"rewards.{index}.file"
            parts[where] = sha256_of_code(path_of(reward.file, where, recipe_dir))
        if isinstance(reward, TasteReward):
            place = f"rewards.{index}.path"
            parts[place] = sha256(path_of(reward.path, place, recipe_dir))
        if pretrained := pretrained_in(reward):
            parts |= hashes_of_model(
                f"rewards.{index}.model", location_of(pretrained, recipe_dir, reward.label)
            )
    return Fingerprint(parts, versions())


def base_model_parts(model: ModelSection, recipe_dir: Path) -> dict[str, str]:
    """Those of the base model, with the recipe's chat template. A random model is known by its recipe, and
    a hub's model that is not in the cache is not known. Raises ModelError for one that is not here.
    """
    parts = {} if model.id == "random" else hashes_of_model("model.id", locate(model, recipe_dir))
    if model.chat_template_file is not None:
        path = path_of(model.chat_template_file, "model.chat_template", recipe_dir)
        parts["model.chat_template"] = sha256(path)
    return parts


def settle(run: RunDirectory, found: Fingerprint, *, step: int | None, accept: bool) -> list[str]:
    """Compare `found` with what the run continues from after `step` (None: it begins), and keep it.

    Returns sentences about other versions, and about changes if the user accepts those. Raises RunError for
    changes otherwise.
    """
    kept = None if step is None else read_fingerprint(run)
    if kept is None:
        _write(run, found)
        return []
    changed = [
        name for name in {**kept.parts, **found.parts} if kept.parts.get(name) != found.parts.get(name)
    ]
    if changed and not accept:
        raise RunError(
            f"{run.path} would continue from step {step}, but what it was trained with has changed: "
            f"{', '.join(changed)}",
            remedy="Put that back as it was, or start anew with --fresh. --accept-changes continues: rewards "
            "and curves before and after are then not of one thing.",
        )
    sentences = [
        f"{name} was {kept.versions.get(name)} and is {now}: the run continues, but not bit for bit"
        for name, now in found.versions.items()
        if kept.versions.get(name) != now
    ]
    accepted = [*kept.accepted, {"step": step, "changed": changed}] if changed else kept.accepted
    if changed:
        sentences.append(f"from step {step} on the run continues with other {', '.join(changed)}")
    if sentences:
        _write(run, Fingerprint(found.parts, found.versions, accepted))
    return sentences


def read_fingerprint(run: RunDirectory) -> Fingerprint | None:
    """The stored fingerprint; None if there is none, as in older runs. Raises RunError for a damaged file."""
    try:
        kept = read_json(run.fingerprint_path)
        parts, found, accepted = dict(kept["parts"]), dict(kept["versions"]), list(kept["accepted"])
        if kept["version"] == _VERSION:
            return Fingerprint(parts, found, accepted)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise RunError(
        f"{run.fingerprint_path} is damaged, or of another version",
        remedy="Remove it: what the run depends on is then taken as it is now.",
    )


def versions() -> dict[str, str]:
    """The versions of the installed packages that results depend on."""
    found = {"pgrpo-cli": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def sampled_sha256(path: Path) -> str:
    """A hash of a file of weights.

    Up to 64 MiB the whole file is hashed. Of a larger file these are hashed: its size, its safetensors
    header, and 256 blocks of 64 KiB at equal distances.
    """
    size = path.stat().st_size
    if size <= _WHOLE:
        return sha256(path)
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little") if path.suffix == ".safetensors" else 0
        file.seek(0)
        digest.update(file.read(min(8 + header, _WHOLE)))
        for number in range(_BLOCKS):
            file.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def hashes_of_model(where: str, at: Location) -> dict[str, str]:
    """The commit of a hub's model; of files here the weights with the configuration, and the tokenizer.

    `where` names them. Nothing of a hub's model that is not in the cache.
    """
    if at.folder is None:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(at.name, CONFIG, revision=at.revision)
        return {where: f"commit {Path(cached).parent.name}"} if isinstance(cached, str) else {}
    if at.gguf_file:
        return {where: sampled_sha256(at.folder / at.gguf_file)}
    weights = [*sorted(path.name for path in at.folder.glob("*.safetensors")), *SETTINGS]
    return {where: _of_files(at.folder, weights), f"{where}, tokenizer": _of_files(at.folder, TOKENIZER)}


def _of_files(folder: Path, names: Iterable[str]) -> str:
    def described() -> Iterator[str]:
        for name in sorted(names):
            if (folder / name).is_file():
                yield f"{name} {sampled_sha256(folder / name)}\n"

    return hashlib.sha256("".join(described()).encode()).hexdigest()


def _write(run: RunDirectory, found: Fingerprint) -> None:
    with explained(str(run.fingerprint_path)):
        write_json(run.fingerprint_path, {"version": _VERSION, **vars(found)})
