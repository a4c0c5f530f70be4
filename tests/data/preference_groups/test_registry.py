from typing import get_args

from pgrpo_cli.data.preference_groups import ASSIGNERS, RowProblem, assign
from pgrpo_cli.recipe.data import PreferenceGroups
from tests.support.records import source_record


def test_every_type_of_the_schema_has_an_assigner():
    sections = get_args(get_args(PreferenceGroups)[0])
    assert sorted(section.model_fields["type"].default for section in sections) == sorted(ASSIGNERS)


def test_a_record_without_a_group_costs_that_record_only():
    def group_of(record):
        if record.columns["n"] == 1:
            raise RowProblem("odd", "it is one")
        return f"group {record.columns['n']}"

    grouped, rejected = assign([source_record(f"text {n}", "u", n=n) for n in range(3)], group_of)
    assert [(record.prompt_id, record.preference_group) for record in grouped] == [
        ("text 0", "group 0"),
        ("text 2", "group 2"),
    ]
    assert grouped[0].user_id == "u"
    assert [(row.reason, row.detail, row.row) for row in rejected] == [("odd", "it is one", "text 1")]
