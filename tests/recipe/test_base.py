"""Keys that hold paths: what names nothing is refused, with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from pgrpo_cli.recipe.base import IS_PATH, Section
from pgrpo_cli.recipe.load import load_recipe
from pgrpo_cli.recipe.messages import InvalidRecipe
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.shape import is_section, item_of, unwrap, variants
from tests.support.recipes import changed, load_data, problems_of

JUDGE = {"base_url": "http://localhost:8000/v1", "model": "m"}
LENGTH = [{"type": "length", "max": 9}]
JSONL = {"type": "jsonl", "path": "prompts.jsonl"}

KEYS: dict[str, Any] = {
    "model.id": lambda text: changed(model={"id": text}),
    "data.source.path": lambda text: changed(data={"source": {**JSONL, "path": text}}, rewards=LENGTH),
    "data.source.path.1": lambda text: changed(
        data={"source": {"type": "feedback", "path": ["taste.jsonl", text]}}, rewards=LENGTH
    ),
    "data.source.eval_path": lambda text: changed(
        data={"source": {"type": "helpsteer2", "path": "here", "eval_path": text}}, rewards=LENGTH
    ),
    "data.source.books_path": lambda text: changed(
        data={"source": {"type": "goodreads", "path": "here", "books_path": text}}, rewards=LENGTH
    ),
    "data.preference_groups.model": lambda text: changed(
        data={
            "source": JSONL,
            "preference_groups": {"type": "cluster", "features": "embedding", "model": text},
        },
        rewards=LENGTH,
    ),
    "rewards.0.file": lambda text: changed(rewards=[{"type": "python", "file": text}]),
    "rewards.0.model": lambda text: changed(rewards=[{"type": "reward_model", "model": text}]),
    "eval.lm_eval.include_path": lambda text: changed(
        eval={"lm_eval": {"tasks": ["a"], "include_path": text}}
    ),
}


def sections(annotation: Any) -> Iterator[type[Section]]:
    annotation = unwrap(annotation)
    entry = unwrap(item_of(annotation))
    for section in (
        [annotation] if is_section(annotation) else (variants(annotation) or variants(entry)).values()
    ):
        yield section
        for field in section.model_fields.values():
            yield from sections(field.annotation)


def is_path(field: FieldInfo) -> bool:
    parts = (field.annotation, *get_args(field.annotation))
    return IS_PATH in field.metadata or any(IS_PATH in getattr(part, "__metadata__", ()) for part in parts)


def test_every_key_with_the_name_of_a_path_is_one() -> None:
    """A path that is none of these keys would be refused only where it is used."""
    named = re.compile(r"(.*_)?(path|file|folder)")
    keys = [
        (section.__name__, name, is_path(field))
        for section in sections(Recipe)
        for name, field in section.model_fields.items()
        if named.fullmatch(name)
    ]
    assert len(keys) >= 14
    assert [key for key in keys if not key[2]] == []


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("./a\0b", "a path holds no NUL character"),
        # 128 letters of two bytes each.
        ("./" + "é" * 128, "has 256 bytes; one has at most 255"),
    ],
)
def test_what_can_be_no_path_anywhere_is_refused(tmp_path: Path, key: str, text: str, words: str) -> None:
    (problem,) = problems_of(tmp_path, KEYS[key](text))
    assert ".".join(map(str, problem.path)) == key
    assert words in problem.text
    assert problem.where.startswith(f"{tmp_path}/recipe.yaml:")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "~nosuchuser/x",
            "there is no user 'nosuchuser', or none with a home directory; write ./~nosuchuser",
        ),
        (
            "./$PGRPO_NO_SUCH/x",
            "the environment variable PGRPO_NO_SUCH is not set; set it, or write the path",
        ),
    ],
)
def test_what_names_nothing_on_this_machine_is_refused_on_request(
    tmp_path: Path, key: str, text: str, words: str
) -> None:
    load_data(tmp_path, KEYS[key](text))
    with pytest.raises(InvalidRecipe) as caught:
        load_recipe(tmp_path / "recipe.yaml", paths=True)
    (problem,) = caught.value.problems
    assert ".".join(map(str, problem.path)) == key
    assert problem.text.startswith(f"found {text}; {words}")
    assert problem.where.startswith(f"{tmp_path}/recipe.yaml:")


@pytest.mark.parametrize("text", ["~/x", "$HOME/x", "a b", "é" * 127, "a/../b", "b~", "./$5"])
def test_what_may_name_something_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    load_data(tmp_path, KEYS["data.source.path"](text))
    assert load_recipe(tmp_path / "recipe.yaml", paths=True)


def test_a_text_that_is_no_path_may_hold_anything(tmp_path: Path) -> None:
    load_data(tmp_path, changed(model__system_prompt="~nosuchuser $NO_SUCH " + "x" * 300))
    assert load_recipe(tmp_path / "recipe.yaml", paths=True)
