"""Numbers at the ends of what a number can be: each is refused, or everything that is made of it works."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_origin

import pytest
import torch
import yaml

from pgrpo_cli.algo.advantages import compute_advantages
from pgrpo_cli.algo.estimators import resolve_estimator
from pgrpo_cli.algo.history import RewardHistory
from pgrpo_cli.algo.losses import policy_loss
from pgrpo_cli.data.preference_groups import ASSIGNERS, AssignContext
from pgrpo_cli.data.split import split
from pgrpo_cli.model.rollout.sampling import sample_tokens
from pgrpo_cli.model.update.optimizer import build_optimizer
from pgrpo_cli.recipe.base import Section
from pgrpo_cli.recipe.check import check
from pgrpo_cli.recipe.load import dump_resolved
from pgrpo_cli.recipe.messages import InvalidRecipe, KeyPath, dotted
from pgrpo_cli.recipe.resolved import with_aggregation
from pgrpo_cli.recipe.schema import Recipe
from pgrpo_cli.recipe.shape import is_section, item_of, unwrap, variants
from pgrpo_cli.recipe.yaml_lines import Document, parse
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.build import build_rewards
from pgrpo_cli.stats.intervals import Bootstrap, combination_interval
from tests.support.recipes import MINIMAL, changed, load_data, problems_of
from tests.support.records import source_record
from tests.support.rewards import scored

WHOLE = [0, 1, 2, 64, 2000, 2**31 - 1, 10**18, 10**30, -1, 1 - 2**31, -(10**18)]
REAL = [0.5, 5e-324, 1e-200, 1e-15, 1e-6, 1 - 2**-53, 1e6, 1e18, 1.7e308, -0.5, -5e-324, -1e18, -1.7e308]
EXTREMES = WHOLE + REAL

BASE = {**MINIMAL, "rewards": [{"type": "length", "max": 97}]}
REQUIRED: dict[str, Any] = {
    **{"path": "x", "column": "x", "expression": "x", "plugin": "x", "file": "x.py", "model": "x"},
    **{
        "base_url": "http://localhost/v1",
        "pattern": "x",
        "keywords": ["x"],
        "tasks": ["x"],
        "titles_column": "x",
    },
    **{"max": 97, "edges": [1.0], "count": 3, "input": 1.0, "output": 1.0},
}
"""Values of the keys that sections require."""
TOGETHER: dict[str | None, dict[str, Any]] = {
    "readability": {"max": 97.0},
    "sentiment": {"max": 0.5},
    "reward_model": {"activation": "raw", "min": -1.0, "max": 1.0},
}
"""Keys that go with others of their sections."""


def example(section: type[Section], tag: str | None = None) -> dict[str, Any]:
    """The least that a section says."""
    wanted = {name for name, field in section.model_fields.items() if field.is_required()} & REQUIRED.keys()
    return {
        **({"type": tag} if tag else {}),
        **{name: REQUIRED[name] for name in wanted},
        **TOGETHER.get(tag, {}),
    }


def numeric(
    annotation: Any, path: KeyPath, data: dict[str, Any], seen: set[tuple[type, str]]
) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """Every numeric key below `path`, list entries included, with a recipe that has its sections.

    What several sections inherit comes once.
    """
    annotation = unwrap(annotation)
    entry = unwrap(item_of(annotation))
    if annotation in (int, float):
        yield path, data
    elif get_origin(annotation) is tuple and entry in (int, float):
        yield (*path, 0), data
    elif get_origin(annotation) is tuple:
        yield from numeric(entry, (*path, 0), data, seen)
    else:
        tagged = variants(annotation).items() if variants(annotation) else ()
        for tag, section in [(None, annotation)] if is_section(annotation) else tagged:
            inside = (
                with_section(data, path, example(section, tag)) if path and section is not Recipe else data
            )
            for name, field in section.model_fields.items():
                bases = [base for base in section.__mro__ if name in vars(base).get("__annotations__", ())]
                if (bases[-1], name) not in seen:
                    seen.add((bases[-1], name))
                    yield from numeric(field.annotation, (*path, name), inside, seen)


def with_section(data: dict[str, Any], path: KeyPath, values: dict[str, Any]) -> dict[str, Any]:
    """A copy of `data` with what `values` adds at `path`; another `type` starts afresh."""
    data = copy.deepcopy(data)
    container: Any = data
    for key in path[:-1]:
        container = container.setdefault(key, {}) if isinstance(container, dict) else container[key]
    before = container[path[-1]] if isinstance(container, list) else container.get(path[-1], {})
    keep = not isinstance(before, dict) or values.get("type") == before.get("type")
    container[path[-1]] = {**values, **before} if keep and isinstance(before, dict) else values
    return data


def with_number(data: dict[str, Any], path: KeyPath, number: float) -> dict[str, Any]:
    data = copy.deepcopy(data)
    container: Any = data
    for key in path[:-1]:
        if isinstance(container, dict) and key not in container:
            container[key] = list(DEFAULT_LISTS[key])
        container = container[key]
    container[path[-1]] = number
    return data


DEFAULT_LISTS: dict[Any, list[float]] = {"scale": [0, 10], "counts": [2, 8]}
LEAVES = list(numeric(Recipe, (), BASE, set()))


def label(leaf: tuple[KeyPath, dict[str, Any]]) -> str:
    path, data = leaf
    container: Any = data
    tags = []
    for key in path[:-1]:
        container = container.get(key, {}) if isinstance(container, dict) else container[key]
        tags += [container["type"]] if isinstance(container, dict) and "type" in container else []
    return "-".join([dotted(path), *tags])


def test_every_section_is_walked() -> None:
    found = {label(leaf) for leaf in LEAVES}
    assert len(found) == len(LEAVES) > 100
    assert {"seed", "history.kind.decay-ema", "rewards.0.scale.0-judge", "eval.judge.pairs"} <= found
    assert {"rewards.0.price_per_million_tokens.input-judge", "data.source.cut-movielens"} <= found


@pytest.mark.parametrize("leaf", LEAVES, ids=label)
def test_a_number_is_refused_or_works(leaf: tuple[KeyPath, dict[str, Any]]) -> None:
    path, data = leaf
    if path[:2] == ("engine", "vllm"):
        # vLLM takes no model of random weights; the example is one on a hub.
        data = {**data, "model": {"id": "some/model"}}
    if path == ("train", "stop_after"):
        # It counts evaluations, which must be of something to be kept.
        train = {**data.get("train", {}), "keep_best": "macro"}
        data = {**data, "eval": {**data.get("eval", {}), "every": 1}, "train": train}
    taken = []
    for number in EXTREMES:
        with suppress(InvalidRecipe):
            taken.append(check(Document("recipe.yaml", with_number(data, path, number))))
    # A key that takes none of them is not tried at all.
    assert taken
    for recipe in taken:
        use(recipe, path)
    assert check(parse(dump_resolved(taken[-1]), "again", str)) == with_aggregation(taken[-1])


def use(recipe: Recipe, path: KeyPath) -> None:
    """Make what the number at `path` goes into, and let it work once."""
    section, name = path[0], path[-1]
    if section == "rewards":
        use_reward(recipe)
    elif section in ("advantage", "history"):
        use_advantages(recipe, [0.0, 1.0, 0.5, 0.5])
    elif section == "loss":
        use_loss(recipe)
    elif name == "temperature" and path[:2] != ("eval", "judge"):
        sample_from(recipe, recipe.rollout.temperature if section == "rollout" else recipe.eval.temperature)
    elif section == "rollout":
        sample_from(recipe, recipe.rollout.temperature)
    elif section == "train":
        use_optimizer(recipe)
    elif name in ("confidence", "bootstrap_samples"):
        bootstrap = Bootstrap(recipe.eval.bootstrap_samples, recipe.eval.confidence)
        found = combination_interval([[0.0, 1.0, 0.5]], bootstrap, [1.0])
        assert math.isfinite(found.low) and math.isfinite(found.high)
    elif section == "adapter":
        use_adapter(recipe)
    elif name == "eval_fraction":
        records = [source_record(f"prompt {i}", preference_group="a") for i in range(9)]
        halves = split(records, "text", recipe.data.eval_fraction, 0)
        assert halves.train and halves.eval
    elif name == "edges":
        groups = recipe.data.preference_groups
        assert ASSIGNERS["bins"](groups, AssignContext(Path("."))).fit([source_record("a", x=1)])


def use_reward(recipe: Recipe) -> None:
    (section,) = recipe.rewards
    rows = [
        Completion(
            str(i),
            "a",
            "Ask?",
            text,
            {"reference": "A b.", "target": "A b", "x": ["A b"], "candidates": ["A b"]},
        )
        for i, text in enumerate(["", "A b. C!", "word " * 200])
    ]
    if section.type in (
        "judge",
        "python",
        "plugin",
        "embedding",
        "reward_model",
        "chrf",
        "sentiment",
        "personas",
        "taste",
    ):
        return
    found = scored(build_rewards(recipe.rewards, Path("."), allow_code=False), rows)
    assert all(math.isnan(score.value) or math.isfinite(score.value) for score in found)
    use_advantages(recipe, [score.value for score in found] + [0.0])


def use_advantages(recipe: Recipe, rewards: list[float]) -> None:
    kind = recipe.history.kind
    history = RewardHistory(kind.type, decay=getattr(kind, "decay", None), window=getattr(kind, "size", None))
    for step in range(3):
        history.update(rewards, ["a"] * 4, num_generations=2, step=step)
    for name in ("pgrpo", "grpo", "pgrpo_shrinkage", "dr_grpo"):
        estimator = resolve_estimator(name, epsilon=recipe.advantage.epsilon)
        found = compute_advantages(
            rewards,
            ["a"] * 4,
            num_generations=2,
            history=history,
            estimator=estimator,
            min_count=recipe.history.min_count,
            clip=recipe.advantage.clip,
        )
        assert found.advantages_N.isfinite().all()


def use_loss(recipe: Recipe) -> None:
    logprobs = torch.tensor([[-1.0, -30.0], [-0.1, -2.0]], requires_grad=True)
    loss = policy_loss(
        logprobs,
        torch.tensor([[-2.0, -1.0], [-0.1, -2.0]]),
        torch.tensor([1.0, -1.0]),
        torch.ones(2, 2, dtype=torch.bool),
        reference_logprobs_N_T=torch.tensor([[-2.0, -1.0], [-0.1, -2.0]]),
        clip_low=recipe.loss.clip_low,
        clip_high=recipe.loss.clip_high,
        beta=recipe.loss.beta,
        aggregation="sequence_mean",
        num_completions=2,
        num_tokens=4,
        max_completion_tokens=recipe.rollout.max_completion_tokens,
    ).loss
    loss.backward()
    assert loss.isfinite() and logprobs.grad is not None and logprobs.grad.isfinite().all()


def sample_from(recipe: Recipe, temperature: float) -> None:
    logits, uniform = torch.tensor([[0.0, 60.0, -60.0, 1.0], [0.0] * 4]), torch.tensor([0.0, 0.999])
    rollout = recipe.rollout
    tokens, logprobs = sample_tokens(
        logits, uniform, temperature=temperature, top_p=rollout.top_p, top_k=rollout.top_k
    )
    assert ((tokens >= 0) & (tokens < 4)).all() and logprobs.isfinite().all()


class Parameters:
    """As much of a policy as an optimizer needs."""

    def __init__(self) -> None:
        self.trainable = {"weight": torch.nn.Parameter(torch.tensor([0.5, -0.5]))}


def use_optimizer(recipe: Recipe) -> None:
    train = recipe.train
    policy = Parameters()
    if train.optimizer.type == "adamw":
        optimizer = build_optimizer(policy, train)  # type: ignore[arg-type]
        for step in (1, 2, max(1, train.steps // 2), train.steps):
            policy.trainable["weight"].grad = torch.tensor([1e-3, -10.0])
            torch.nn.utils.clip_grad_norm_(policy.trainable.values(), train.max_grad_norm)
            optimizer.param_groups[0]["lr"] = rate = train.learning_rate_at(step)
            assert 0 <= rate <= train.learning_rate
            optimizer.step()
        assert policy.trainable["weight"].isfinite().all()


def use_adapter(recipe: Recipe) -> None:
    scale = torch.tensor(recipe.adapter.alpha / recipe.adapter.r, dtype=torch.bfloat16)
    assert scale.isfinite() and scale > 0


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            "data: {seed: 123456789012345678901234567890}",
            "must be 2147483647 or less",
        ),
        ("train: {max_grad_norm: 1e300}", "must be 0 or of a size between 1e-15 and 1e+18"),
        ("advantage: {epsilon: 1e-320}", "must be 0 or of a size between 1e-15 and 1e+18"),
        ("train: {learning_rate: 1e300}", "must be 10 or less"),
        ("train: {steps: 1000000000000000000}", "must be 10000000 or less"),
        ("rollout: {temperature: 1e-320}", "must be 0.001 or more"),
        ("eval: {confidence: 0.9999999999999999}", "must be 0.9999 or less"),
        ("adapter: {alpha: 1e308}", "must be 1000000 or less"),
        ("rewards: [{type: personas, weight: 1e308}]", "must be 1000000 or less"),
        ("seed: -99999999999", "must be 0 or more"),
        ("history: {min_count: 99999999999}", "must be 2147483647 or less"),
    ],
)
def test_what_is_refused(text: str, rule: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        check(parse(text, "recipe.yaml", str))
    assert rule in str(caught.value)


@pytest.mark.parametrize("text", ["1e3", "40.0"])
def test_a_whole_number_is_offered_in_place_of_another_way_to_write_it(text: str) -> None:
    document = parse(f"{{name: a, train: {{steps: {text}}}}}", "recipe.yaml", str)
    with pytest.raises(
        InvalidRecipe, match=rf"found {text}; must be a whole number; write {float(text):.0f}"
    ):
        check(document)


FREE = {
    "model.chat_template_kwargs": lambda values: changed(model__chat_template_kwargs=values),
    "engine.args": lambda values: changed(engine={"type": "trl", "args": values}),
    "data.preference_groups.options": lambda values: changed(
        data__preference_groups={"type": "plugin", "plugin": "p", "options": values}
    ),
    "rewards.0.options": lambda values: changed(
        rewards=[{"type": "plugin", "plugin": "p", "options": values}]
    ),
    "eval.judge.extra_body": lambda values: changed(
        eval={"judge": {"base_url": "http://localhost/v1", "model": "m", "extra_body": values}}
    ),
}
"""Recipes with a mapping that may hold anything."""


@pytest.mark.parametrize("key", FREE)
@pytest.mark.parametrize("text", [".nan", "-.inf", "1e400"])
def test_a_free_mapping_holds_finite_numbers_only(tmp_path: Path, key: str, text: str) -> None:
    """A run keeps it as JSON, which has no others."""
    recipe = FREE[key]({"a": [1, {"b": "NUMBER"}], "c": 1e300})
    (problem,) = problems_of(tmp_path, yaml.safe_dump(recipe).replace("NUMBER", text))
    assert dotted(problem.path) == f"{key}.a.1.b"
    assert problem.text.endswith("; must be a finite number")
    assert load_data(tmp_path, FREE[key]({"a": [1, {"b": 0.5}], "c": 1e300}))
