from typing import get_args

from pgrpo_cli.data.sources import SOURCES
from pgrpo_cli.recipe.sources import Source


def test_every_source_type_of_the_schema_has_a_reader():
    types = [section.model_fields["type"].default for section in get_args(get_args(Source)[0])]
    assert sorted(types) == sorted(SOURCES)
