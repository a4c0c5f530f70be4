"""The project's own files agree with each other: pins with dependencies, versions, names of tiers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pgrpo_cli import __version__

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]


def pins() -> dict[str, str]:
    """Name to version, in the order of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_torch_is_the_first_pin() -> None:
    assert next(iter(pins().items())) == ("torch", "2.13.0")


@pytest.mark.parametrize(
    "text",
    [
        *PROJECT["project"]["dependencies"],
        *EXTRAS["text"],
        *EXTRAS["similarity"],
        *EXTRAS["lm-eval"],
        *EXTRAS["serve"],
        *EXTRAS["gguf"],
        *EXTRAS["test"],
        *EXTRAS["dev"],
    ],
)
def test_every_dependency_is_pinned_within_its_bounds(text: str) -> None:
    requirement = Requirement(text)
    if requirement.name != PROJECT["project"]["name"]:
        assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("name", ["transformers", "peft", "bitsandbytes"])
def test_no_older_release_of_a_library_whose_internals_we_use_is_allowed_than_was_tested(name: str) -> None:
    """Patch releases aside: 4-bit layers, caches and adapters changed in minor releases without notice."""
    (bound,) = (r for r in map(Requirement, PROJECT["project"]["dependencies"]) if r.name == name)
    major, minor, _ = pins()[name].split(".")
    assert not bound.specifier.contains(f"{major}.{int(minor) - 1}.99")
    assert bound.specifier.contains(pins()[name])


def test_the_changelog_has_this_version() -> None:
    assert re.search(rf"(?m)^## {re.escape(__version__)}\b", (ROOT / "CHANGELOG.md").read_text())


def test_every_marker_has_a_make_target_and_a_row_in_contributing() -> None:
    makefile, contributing = (ROOT / "Makefile").read_text(), (ROOT / "CONTRIBUTING.md").read_text()
    for marker in PROJECT["tool"]["pytest"]["ini_options"]["markers"]:
        name = marker.split(":")[0]
        assert re.search(rf'-m "?(not )?{name}', makefile)
        assert f"| `{name}` |" in contributing


def test_every_target_named_in_contributing_exists() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text()))
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert named <= targets
    assert {"install", "quickstart", "test", "check"} <= targets
