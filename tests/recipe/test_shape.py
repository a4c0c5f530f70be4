"""The schema's types beside the data: which section a value is, and where pydantic's locations point."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from pgrpo_cli.recipe.base import Section
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.shape import annotation_at, describe, leaves, place_of, section_of, unwrap, variants


class One(Section):
    type: Literal["one"] = "one"
    one: int = 1


class Two(Section):
    type: Literal["two"] = "two"
    words: str | tuple[str, ...] = ()


class Top(Section):
    choice: Annotated[One | Two, Field(discriminator="type")] = One()
    many: tuple[Annotated[One | Two, Field(discriminator="type")], ...] | None = None


def test_unwrap_removes_annotated_and_none_and_nothing_else() -> None:
    assert unwrap(Annotated[int | None, Field(ge=0)]) is int
    assert unwrap(int | str) == int | str


def test_sections_of_a_union_are_told_apart_by_type() -> None:
    assert variants(Top.model_fields["choice"].annotation) == {"one": One, "two": Two}
    assert variants(int | str) == {}
    assert section_of(One | Two, {"type": "two"}) is Two
    assert section_of(One | Two, {"type": ["two"]}) is None
    assert section_of(One, {}) is One


@pytest.mark.parametrize(
    ("data", "path", "allowed"),
    [
        # The tag `one` that pydantic puts into a location is a name of a key here as well.
        ({"choice": {"type": "one", "one": "x"}}, ("choice", "one"), int),
        ({"choice": {"type": "one", "two": 2}}, ("choice", "two"), Any),
        ({"many": [{"type": "two", "words": [1]}]}, ("many", 0, "words", 0), str),
        ({"many": [{"type": "two", "words": 3}]}, ("many", 0, "words"), str | tuple[str, ...]),
        ({"many": [{"type": "six"}]}, ("many", 0), One | Two),
        ({"other": 1}, ("other",), Any),
    ],
)
def test_pydantics_locations_become_places_in_the_data(
    data: Any, path: tuple[Any, ...], allowed: Any
) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Top).validate_python(data, strict=False)
    place = place_of(Top, caught.value.errors()[-1]["loc"])
    assert (place.path, unwrap(place.annotation)) == (path, allowed)


def test_a_place_knows_its_field_and_the_other_types_of_its_section() -> None:
    place = place_of(Top, ("choice", "two", "words"))
    assert place.field is Two.model_fields["words"]
    assert place.types == {}
    assert place_of(Top, ("choice", "two")).types == {"one": One, "two": Two}
    assert place_of(Top, ("many", 0)).field is None


def test_annotation_at_follows_the_data() -> None:
    data = {"choice": {"type": "two"}, "many": [{"type": "one"}]}
    assert annotation_at(Top, data, ("choice", "words")) == str | tuple[str, ...]
    assert annotation_at(Top, data, ("choice", "words", 0)) is str
    assert annotation_at(Top, data, ("many", 0, "one")) is int
    assert annotation_at(Top, data, ("many", 5, "one")) is Any
    assert annotation_at(Top, data, ("nothing",)) is Any


def test_leaves_name_keys_below_every_variant() -> None:
    assert ("train", "optimizer", "beta1") in set(leaves(Recipe))
    assert ("history", "kind", "decay") in set(leaves(Recipe))


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int | None, "a whole number"),
        (Literal["a", "b"], "'a' or 'b'"),
        (str | tuple[str, ...], "text or a list of texts"),
        (tuple[One | Two, ...], "a list of mappings, each with the key 'type'"),
        (dict[str, Any], "a mapping"),
        (Top, "a mapping"),
        (bytes, "any value"),
    ],
)
def test_describe(annotation: Any, words: str) -> None:
    assert describe(annotation) == words
