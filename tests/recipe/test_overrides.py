"""`--set KEY=VALUE`: typed, at any depth, and reported by what was typed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pgrpo_cli.recipe.messages import InvalidRecipe, plain
from pgrpo_cli.recipe.resolved import differing_keys
from tests.support.recipes import MINIMAL, changed, load_data, problems_of


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.steps=40", "train.steps", 40),
        ("train.learning_rate=1e-3", "train.learning_rate", 0.001),
        ("train.gradient_checkpointing=true", "train.gradient_checkpointing", True),
        ("eval.max_prompts_per_group=3", "eval.max_prompts_per_group", 3),
        ("rewards.0.weight=2", "rewards.0.weight", 2.0),
        ("advantage.estimator=grpo", "advantage.estimator", "grpo"),
        (" loss.beta = 0.1", "loss.beta", 0.1),
        ("log.trackers=[wandb]", "log.trackers.0", "wandb"),
        ("log.trackers.0=wandb", "log.trackers.0", "wandb"),
        ("rewards.0.preference_groups=[a, b]", "rewards.0.preference_groups.1", "b"),
        ("history.kind={type: ema, decay: 0.5}", "history.kind.decay", 0.5),
        ("model.random={hidden_size: 64}", "model.random.hidden_size", 64),
        ("adapter.target_modules=[q_proj]", "adapter.target_modules.0", "q_proj"),
        # Keys that hold text take the value as it stands.
        ("name=no", "name", "no"),
        ("name=1e5", "name", "1e5"),
        ("name='quoted'", "name", "quoted"),
        ("model.system_prompt=Answer: shortly, [please]", "model.system_prompt", "Answer: shortly, [please]"),
        ("model.system_prompt=a=b", "model.system_prompt", "a=b"),
        ("model.system_prompt=null ", "model.system_prompt", "null "),
        ('model.system_prompt="null"', "model.system_prompt", "null"),
    ],
)
def test_an_override_sets_its_key_and_nothing_else(
    tmp_path: Path, override: str, key: str, value: Any
) -> None:
    before = load_data(tmp_path, MINIMAL)
    changes = {
        name: right for name, _, right in differing_keys(before, load_data(tmp_path, MINIMAL, override))
    }
    assert changes[key] == value
    assert type(changes[key]) is type(value)
    assert all(name.split(".")[:2] == key.split(".")[:2] for name in changes)


def source(**values: Any) -> dict[str, Any]:
    return changed(data__source=values, rewards=[{"type": "length", "max": 5}])


@pytest.mark.parametrize("kind", ["feedback", "open_webui"])
@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("*.jsonl", "*.jsonl"),
        ("my #1.jsonl", "my #1.jsonl"),
        ("a: b.jsonl", "a: b.jsonl"),
        ("[ab]*.jsonl", "[ab]*.jsonl"),
        ("[a] b.jsonl", "[a] b.jsonl"),
        ("'quoted'", "quoted"),
        ("[a.jsonl, '*.json']", ("a.jsonl", "*.json")),
    ],
)
def test_text_where_a_list_may_be_needs_no_quotes(tmp_path: Path, kind: str, text: str, paths: Any) -> None:
    recipe = load_data(tmp_path, source(type=kind, path="x"), f"data.source.path={text}")
    assert recipe.data.source.path == paths


@pytest.mark.parametrize("kind", ["feedback", "open_webui"])
def test_no_text_is_no_path(tmp_path: Path, kind: str) -> None:
    (problem,) = problems_of(tmp_path, source(type=kind, path="x"), "data.source.path=")
    assert "found nothing (null); must be" in problem.text


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        (",", ","),
        (";", ";"),
        ("|", "|"),
        ("\t", "\t"),
        ("\\t", "\t"),
        ("tab", "\t"),
        ("';'", ";"),
        (" ;", ";"),
        ("null", None),
    ],
)
def test_a_delimiter_needs_no_quotes(tmp_path: Path, text: str, delimiter: str | None) -> None:
    recipe = load_data(tmp_path, source(type="csv", path="x"), f"data.source.delimiter={text}")
    assert recipe.data.source.delimiter == delimiter


@pytest.mark.parametrize(
    ("override", "section", "default", "key", "value"),
    [
        ("train.optimizer.weight_decay=0.01", "train.optimizer", "adamw", "weight_decay", 0.01),
        ("model.quantization.double=false", "model.quantization", "nf4", "double", False),
        (
            "data.conditioning.template=Be {{ mood }}.",
            "data.conditioning",
            "prompt",
            "template",
            "Be {{ mood }}.",
        ),
    ],
)
def test_a_section_that_the_recipe_leaves_out_has_the_type_of_its_default(
    tmp_path: Path, override: str, section: str, default: str, key: str, value: Any
) -> None:
    found = load_data(tmp_path, source(type="jsonl", path="x"), override)
    for name in section.split("."):
        found = getattr(found, name)
    assert (found.type, getattr(found, key)) == (default, value)


def test_a_key_of_another_type_begins_no_section(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, MINIMAL, "history.kind.decay=0.5")
    assert "missing the key 'type'; must be one of 'cumulative'" in problem.text


def test_null_unsets_optional_text(tmp_path: Path) -> None:
    recipe = load_data(tmp_path, changed(model__system_prompt="x"), "model.system_prompt=null")
    assert recipe.model.system_prompt is None


def test_later_overrides_win(tmp_path: Path) -> None:
    recipe = load_data(tmp_path, changed(train={"steps": 3}), "train.steps=4", "train.steps=5")
    assert recipe.train.steps == 5


QUANTIZED = changed(model__quantization={"type": "nf4", "double": False})
REGEX = changed(rewards=[{"type": "regex", "pattern": "a", "limit": 2, "count": True, "weight": 3}])


@pytest.mark.parametrize(
    ("data", "override", "dropped"),
    [
        (QUANTIZED, "model.quantization.type=none", ["model.quantization.double"]),
        (
            changed(model__quantization={"double": False}),
            "model.quantization.type=none",
            ["model.quantization.double"],
        ),
        (
            changed(history={"kind": {"type": "ema", "decay": 0.5}}),
            "history.kind.type=window",
            ["history.kind.decay"],
        ),
        (
            changed(train={"optimizer": {"type": "adamw", "beta1": 0.5}}),
            "train.optimizer.type=adamw_8bit",
            [],
        ),
        (REGEX, "rewards.0.type=personas", ["rewards.0.pattern", "rewards.0.limit", "rewards.0.count"]),
        (
            changed(
                data__source={"type": "jsonl", "path": "a", "user_column": "u"}, rewards=[{"type": "rouge"}]
            ),
            "data.source.type=goodreads",
            ["data.source.user_column"],
        ),
        (
            changed(data__preference_groups={"type": "random", "count": 3}),
            "data.preference_groups.type=user",
            ["data.preference_groups.count"],
        ),
    ],
)
def test_another_type_drops_the_keys_that_it_does_not_have(
    tmp_path: Path, data: dict[str, Any], override: str, dropped: list[str]
) -> None:
    notes: list[str] = []
    load_data(tmp_path, data, override, note=notes.append)
    verb, ending = ("do", "s") if len(dropped) > 1 else ("does", "")
    form = (
        rf"--set {override}: (.+) \(\S+recipe.yaml:[0-9]+\) {verb} not count: '\w+' has no such key{ending}"
    )
    assert len(notes) == bool(dropped)
    for note in notes:
        match = re.fullmatch(form, note)
        assert match is not None and match[1].split(", ") == dropped


def test_a_key_that_no_type_has_is_no_matter_of_the_type(tmp_path: Path) -> None:
    data = changed(model__quantization={"type": "nf4", "doubel": False})
    (problem,) = problems_of(tmp_path, data, "model.quantization.type=none")
    assert problem.path == ("model", "quantization", "doubel")


def test_what_another_type_had_is_as_if_it_had_never_been_there(tmp_path: Path) -> None:
    data = changed(model__quantization={"type": "nf4", "double": "twice"})
    assert load_data(tmp_path, data, "model.quantization.type=none").model.quantization.type == "none"
    (problem,) = problems_of(
        tmp_path, data, "model.quantization.type=none", "model.quantization.type=nf4", "seed=-1"
    )
    assert problem.path == ("seed",)


@pytest.mark.parametrize("overrides", [(), ("train.steps=1",)])
def test_a_warm_up_ends_with_the_run(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    notes: list[str] = []
    recipe = load_data(
        tmp_path, changed(train={"steps": 10, "warmup_steps": 20}), *overrides, note=notes.append
    )
    steps = 1 if overrides else 10
    assert recipe.train.warmup_steps == recipe.train.steps == steps
    assert len(notes) == 1
    assert notes[0].startswith(f"train.warmup_steps is cut from 20 to train.steps ({steps}): ")


def test_what_counts_is_not_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    load_data(tmp_path, changed(train={"steps": 20, "warmup_steps": 20}), "seed=3", note=notes.append)
    assert notes == []


def test_one_more_entry_can_be_added_to_a_list(tmp_path: Path) -> None:
    recipe = load_data(
        tmp_path,
        MINIMAL,
        "rewards.1={type: length, max: 5}",
        "rewards.2.type=length",
        "rewards.2.max=9",
        "rewards.2.name=b",
    )
    assert [reward.label for reward in recipe.rewards] == ["personas", "length", "b"]


def test_an_override_repairs_a_broken_value(tmp_path: Path) -> None:
    assert load_data(tmp_path, changed(train={"steps": "many"}), "train.steps=3").train.steps == 3


@pytest.mark.parametrize(
    ("override", "path", "words"),
    [
        ("train.steps", "", "must be KEY=VALUE"),
        ("=3", "", "must be KEY=VALUE"),
        ("train..steps=3", "", "must be KEY=VALUE"),
        ("train.stepz=3", "train.stepz", "did you mean 'steps'?"),
        ("steps=3", "steps", "did you mean 'train.steps'?"),
        ("trian.steps=3", "trian", "did you mean 'train'?"),
        ("train.steps=many", "train.steps", "found many; must be a whole number"),
        ("train.steps=0", "train.steps", "must be 1 or more"),
        ("train.steps=[", "train.steps", "not valid YAML"),
        ("train.steps=", "train.steps", "found nothing (null); must be a whole number"),
        ("train.steps=Answer: shortly", "train.steps", "found Answer: shortly; must be a whole number"),
        ("train=", "train", "found nothing"),
        ("name.first=a", "name", "is a single value and has no keys"),
        ("rewards.weight=2", "rewards", "is a list; name an entry by its number (0 to 0; 1 adds one)"),
        ("rewards.2.weight=2", "rewards", "is a list; name an entry by its number"),
        ("log.trackers.1=wandb", "log.trackers", "name an entry by its number (none yet; 0 adds one)"),
        ("rewards.-1.weight=2", "rewards", "is a list; name an entry by its number"),
        pytest.param(
            f"rewards.{'9' * 5000}.weight=2", "rewards", "name an entry by its number", id="5000 digits"
        ),
        ("advantage.scale=batch", "advantage.scale", "allowed with estimator 'custom' only"),
        ("rewards.0.type=length", "rewards.0.max", "missing; required"),
    ],
)
def test_a_bad_override_is_reported_as_it_was_typed(
    tmp_path: Path, override: str, path: str, words: str
) -> None:
    (problem,) = problems_of(tmp_path, MINIMAL, override)
    assert ".".join(map(str, problem.path)) == path
    assert words in problem.text
    if not problem.text.startswith("missing"):
        assert problem.where == f"--set {plain(override, 200)}"


def test_overrides_and_the_file_report_together_in_order(tmp_path: Path) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load_data(tmp_path, changed(seed=-1, train={"steps": 0}), "loss.beta=-1", "nonsense")
    wheres = [problem.where.replace(f"{tmp_path}/", "") for problem in caught.value.problems]
    assert wheres == ["recipe.yaml:9", "recipe.yaml:11", "--set nonsense", "--set loss.beta=-1"]


def test_an_empty_file_stays_one_problem(tmp_path: Path) -> None:
    (problem,) = problems_of(tmp_path, "# nothing", "name=a")
    assert "the file is empty" in problem.text
