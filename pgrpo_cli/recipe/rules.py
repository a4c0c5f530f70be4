"""Rules between keys. A rule yields its violations with remedies. Hints are about valid settings that are
rarely intended.

Rules also run on recipes with problems of their own: those fields are left out, reading one raises
AttributeError, and the rule that does so says nothing. No mistake hides another one elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .data_rules import (
    bins_have_names,
    embedding_has_a_model,
    examples_have_a_scale,
    held_out_files_beside_others,
    one_reference,
    review_lengths,
    users_held_out_have_groups,
)
from .interactions import MovielensSource
from .judge import JudgeSection
from .model import RandomModel
from .reward_base import RewardBase
from .reward_judge import JudgeReward
from .reward_text import PersonasReward
from .schema import Recipe
from .sources import ColumnMapping, PersonasSource
from .template_rules import chat_template_parses, expression_parses, pair_rubric_parses, templates_parse
from .training import HistorySection, WindowHistory
from .violation import Violation

RecipeRule = Callable[[Recipe], Iterator[Violation]]


def violations(recipe: Recipe, *, partial: bool = False) -> Iterator[Violation]:
    """All broken rules. `partial`: the recipe lacks the fields that have problems of their own."""
    rewards = getattr(recipe, "rewards", ()) if partial else recipe.rewards
    checks: list[Iterable[Violation]] = [rule(recipe) for rule in RULES]
    checks += [
        reward.violations(("rewards", index))
        for index, reward in enumerate(rewards)
        if isinstance(reward, RewardBase)
    ]
    for check in checks:
        try:
            yield from check
        except AttributeError:
            if not partial:
                raise


def custom_estimator(recipe: Recipe) -> Iterator[Violation]:
    """Baseline and scale must be set with `custom`, and only then."""
    estimator = recipe.advantage.estimator
    for key in ("baseline", "scale"):
        value = getattr(recipe.advantage, key)
        if estimator == "custom" and value is None:
            yield Violation(("advantage", key), value, "required with estimator 'custom'; set it")
        if estimator != "custom" and value is not None:
            remedy = f"remove it, or set advantage.estimator to 'custom' (found {estimator!r})"
            yield Violation(("advantage", key), value, f"allowed with estimator 'custom' only; {remedy}")


def renormalized_sums(recipe: Recipe) -> Iterator[Violation]:
    """`renormalize` needs `aggregate: normalize_then_sum`."""
    section = recipe.advantage
    if section.renormalize and section.aggregate != "normalize_then_sum":
        rule = "takes sums of advantages; set advantage.aggregate to 'normalize_then_sum', or remove it"
        yield Violation(("advantage", "renormalize"), True, rule)


def window_reaches_min_count(recipe: Recipe) -> Iterator[Violation]:
    """A window shorter than `min_count` is never used."""
    kind, min_count = recipe.history.kind, recipe.history.min_count
    if recipe.history.update == "after" and isinstance(kind, WindowHistory) and kind.size < min_count:
        rule = (
            f"with update 'after' it must be at least history.min_count ({min_count}), or the history is "
            "never used; raise the one or lower the other"
        )
        yield Violation(("history", "kind", "size"), kind.size, rule)


def random_heads(recipe: Recipe) -> Iterator[Violation]:
    """The heads share the width equally, and rotary positions need an even number of features per head."""
    size, heads = recipe.model.random.hidden_size, recipe.model.random.num_heads
    if size % (2 * heads):
        rule = f"twice this number must divide model.random.hidden_size ({size}); change the one or the other"
        yield Violation(("model", "random", "num_heads"), heads, rule)


def random_context(recipe: Recipe) -> Iterator[Violation]:
    """The context of the random model must hold the longest prompt and its completion."""
    context = recipe.model.random.context
    longest = recipe.data.max_prompt_tokens + recipe.rollout.max_completion_tokens
    if recipe.model.id == "random" and context < longest:
        rule = (
            f"must hold data.max_prompt_tokens + rollout.max_completion_tokens ({longest}); "
            "raise it, or lower one of them"
        )
        yield Violation(("model", "random", "context"), context, rule)


def package_file(recipe: Recipe) -> Iterator[Violation]:
    """`package:` names a package and a file in it."""
    scheme, colon, rest = recipe.model.id.partition(":")
    package, _, file = rest.partition("/")
    if scheme == "package" and colon and not (package and file):
        rule = "must be package:PACKAGE/FILE, where FILE is a path inside the installed package"
        yield Violation(("model", "id"), recipe.model.id, rule)


def revision_of_hub_model(recipe: Recipe) -> Iterator[Violation]:
    """Only hub models have revisions."""
    name, revision = recipe.model.id, recipe.model.revision
    local = name == "random" or name.startswith("package:") or name.endswith(".gguf")
    if local and revision is not None:
        rule = f"only a model of a hub has revisions, and model.id is {name!r}; remove it"
        yield Violation(("model", "revision"), revision, rule)


def labels_differ(recipe: Recipe) -> Iterator[Violation]:
    """The parts of a reward are recorded under its label."""
    first: dict[str, int] = {}
    for index, reward in enumerate(recipe.rewards):
        if "name" not in reward.__dict__ or "type" not in reward.__dict__:
            continue
        label = reward.label
        if label in first:
            rule = f"rewards.{first[label]} is recorded under that name already; name this one differently"
            yield Violation(("rewards", index, "name"), label, rule)
        first.setdefault(label, index)


def some_reward_counts(recipe: Recipe) -> Iterator[Violation]:
    """At least one reward must have a non-zero weight."""
    weights = [reward.weight for reward in recipe.rewards]
    if weights and not any(weights):
        yield Violation(("rewards", 0, "weight"), 0, "every reward has weight 0; give one another weight")


def personas_reward_needs_personas(recipe: Recipe) -> Iterator[Violation]:
    """The personas reward scores what the personas source asks for."""
    source = recipe.data.source.type
    for index, reward in enumerate(recipe.rewards):
        if isinstance(reward, PersonasReward) and source != "personas":
            rule = (
                f"scores the prompts of data.source.type 'personas' only (found {source!r}); "
                "use another reward, or that source"
            )
            yield Violation(("rewards", index, "type"), "personas", rule)


def pairs_are_sampled(recipe: Recipe) -> Iterator[Violation]:
    """A judge must not compare more completions than are sampled."""
    judge, sampled = recipe.eval.judge, recipe.eval.num_completions
    if judge is not None and judge.pairs > sampled:
        rule = f"must not be greater than eval.num_completions ({sampled}); lower this one or raise that one"
        yield Violation(("eval", "judge", "pairs"), judge.pairs, rule)


RULES: tuple[RecipeRule, ...] = (
    custom_estimator,
    renormalized_sums,
    window_reaches_min_count,
    random_heads,
    random_context,
    package_file,
    revision_of_hub_model,
    review_lengths,
    labels_differ,
    some_reward_counts,
    personas_reward_needs_personas,
    templates_parse,
    chat_template_parses,
    expression_parses,
    pair_rubric_parses,
    pairs_are_sampled,
    one_reference,
    held_out_files_beside_others,
    bins_have_names,
    examples_have_a_scale,
    embedding_has_a_model,
    users_held_out_have_groups,
)


def _judges(recipe: Recipe) -> Iterator[tuple[str, JudgeSection]]:
    """Every judge of the recipe, by its place."""
    for index, reward in enumerate(recipe.rewards):
        if isinstance(reward, JudgeReward):
            yield f"rewards.{index}", reward
    if recipe.eval.judge is not None:
        yield "eval.judge", recipe.eval.judge


def hints(recipe: Recipe) -> list[str]:
    """Valid settings that are rarely intended, each with what to do."""
    found = []
    if isinstance(recipe.data.source, PersonasSource) and not any(
        isinstance(reward, PersonasReward) for reward in recipe.rewards
    ):
        found.append("data.source is 'personas' and no reward is: add {type: personas} to score their tastes")
    source = recipe.data.source
    if isinstance(source, ColumnMapping) and source.template is not None:
        fields = type(source).model_fields
        for key in ("prompt_column", "messages_column", "drop_last_assistant"):
            if getattr(source, key) != fields[key].default:
                found.append(f"data.source.{key} has no effect with data.source.template")
    if recipe.model.id != "random" and recipe.model.random != RandomModel():
        found.append(f"model.random has no effect: model.id is {recipe.model.id!r}, not 'random'")
    for place, judge in _judges(recipe):
        if judge.api_key_env and judge.base_url.startswith("http://"):
            found.append(f"{place}.base_url begins with http://: the key is sent unencrypted")
    if recipe.history.update == "before" and recipe.history.min_count != HistorySection().min_count:
        found.append("history.min_count has no effect with history.update 'before'")
    cut = MovielensSource.model_fields["cut"].default
    if isinstance(source, MovielensSource) and source.holdout == "last" and source.cut != cut:
        found.append("data.source.cut has no effect with data.source.holdout 'last'")
    return found
