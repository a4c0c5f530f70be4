"""The model card's front matter, as hubs read it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from pgrpo_cli.exports.card import front_matter


@pytest.mark.parametrize(
    ("licence", "due"),
    [
        (None, {}),
        ("apache-2.0", {"license": "apache-2.0"}),
        (
            "LICENSE.md",
            {
                "license": "other",
                "license_name": "license-of-the-base-model",
                "license_link": "LICENSE.md",
            },
        ),
        ("Ours: [v1]", {"license": "other", "license_name": "Ours: [v1]"}),
    ],
)
def test_a_licence_is_one_that_hubs_know_or_other(licence: str | None, due: dict[str, Any]) -> None:
    assert yaml.safe_load("\n".join(front_matter("gguf", licence, None))) == {
        "tags": ["p-grpo", "personalization"],
        **due,
    }


def test_a_base_model_of_the_hub_is_named() -> None:
    found = yaml.safe_load("\n".join(front_matter("adapter", None, "owner/name")))
    assert (found["base_model"], found["library_name"]) == ("owner/name", "peft")
