"""What a user should know before spending GPU hours on data that are legal: what is odd, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pgrpo_cli.recipe.conditioning import ProfilesConditioning
from pgrpo_cli.recipe.rewards import JudgeReward
from pgrpo_cli.recipe.schema import Recipe

from .assemble import Assembled
from .records import LEAKED, text_key
from .references import ReferenceRewards, reference_of
from .summary import GroupCounts

# With fewer prompts the spread of a preference group is a guess, and every epoch repeats the same few.
FEW_PROMPTS = 16
# More preference groups with the same trouble are told in one line.
MAX_LINES = 3
NEARLY_ALL = 0.9
# Of all rows, for one reason: more is no accident.
MANY_LOST = 0.05
# A shorter answer, such as `yes`, may stand in a prompt by chance.
LONG_REFERENCE = 20


@dataclass(frozen=True)
class Facts:
    """What the warnings look at. `groups` is never empty."""

    recipe: Recipe
    assembled: Assembled
    groups: Sequence[GroupCounts]
    references: ReferenceRewards | None = None


def warnings_about(facts: Facts) -> tuple[str, ...]:
    """All warnings, each a sentence."""
    return (*facts.assembled.fitted.warnings, *(text for rule in RULES for text in rule(facts)))


def one_dominates(facts: Facts) -> Iterator[str]:
    """Nearly all prompts in one preference group, where those of the others are sampled as rarely."""
    largest = facts.groups[0]
    if len(facts.groups) == 1:
        yield (
            f"there is only one preference group, {largest.preference_group!r}; data.preference_groups can "
            "make more"
        )
    elif largest.share > NEARLY_ALL and facts.recipe.train.sampler == "proportional":
        per_step = facts.recipe.train.prompts_per_step
        yield (
            f"preference group {largest.preference_group!r} has {largest.share:.0%} of the training prompts: "
            f"of the {per_step} prompts of a step, about "
            f"{(1 - largest.share) * per_step:.1f} are of all others"
        )


def few_prompts(facts: Facts) -> Iterator[str]:
    """Too few prompts to estimate the spread of rewards."""
    few = [group for group in facts.groups if group.train_prompts < FEW_PROMPTS]
    if len(few) > MAX_LINES:
        least = few[-1]
        yield (
            f"{len(few)} of {len(facts.groups)} preference groups have fewer than {FEW_PROMPTS} training "
            f"prompts ({least.preference_group!r} has {least.train_prompts}): the spread of their rewards is "
            "a guess"
        )
        return
    for group in few:
        yield (
            f"preference group {group.preference_group!r} has only "
            f"{_number(group.train_prompts, 'training prompt')}; under {FEW_PROMPTS} the spread of its "
            "rewards is a guess"
        )


def nothing_held_out(facts: Facts) -> Iterator[str]:
    """Preference groups that cannot be evaluated."""
    without = [group.preference_group for group in facts.groups if group.eval_prompts == 0]
    if len(without) > MAX_LINES:
        yield (
            f"{len(without)} of {len(facts.groups)} preference groups have no held-out prompt to evaluate "
            f"them on ({without[0]!r} is one)"
        )
        return
    for name in without:
        yield f"preference group {name!r} has no held-out prompt to evaluate it on"


def gone(facts: Facts) -> Iterator[str]:
    """Preference groups that lost all their rows."""
    lost = {row.preference_group for row in facts.assembled.rejected if row.preference_group}
    names = sorted(lost - {group.preference_group for group in facts.groups})
    # A group that rows name and that is not used, because groups are made otherwise, is not lost.
    if facts.recipe.data.preference_groups.type != "column":
        return
    if len(names) > MAX_LINES:
        yield f"{len(names)} preference groups are gone ({names[0]!r} is one): all their rows were rejected"
        return
    for name in names:
        yield f"preference group {name!r} is gone: all its rows were rejected"


def too_long(facts: Facts) -> Iterator[str]:
    """Many prompts beyond a limit."""
    remedies = {
        "longer than data.max_prompt_tokens": "raise it if memory allows, or shorten the prompts",
        "longer than the model's context": "lower rollout.max_completion_tokens, or shorten the prompts",
    }
    counts = Counter(row.reason for row in facts.assembled.rejected)
    total = sum(map(len, facts.assembled.prompts.values())) + counts.total()
    for reason, remedy in remedies.items():
        if counts[reason] > MANY_LOST * total:
            yield f"{counts[reason] / total:.0%} of the rows are {reason} and left out: {remedy}"


def leaked(facts: Facts) -> Iterator[str]:
    """Training prompts lost because their text is held out."""
    lost = sum(row.reason == LEAKED for row in facts.assembled.rejected)
    train = len(facts.assembled.prompts["train"])
    if lost > MANY_LOST * (train + lost):
        remedy = "" if facts.recipe.data.split_by == "text" else "; data.split_by 'text' loses none"
        yield f"{lost} prompts left training because the same text is held out ({train} are left){remedy}"


def split_unused(facts: Facts) -> Iterator[str]:
    """A way of splitting that has no effect."""
    split_by = facts.recipe.data.split_by
    if facts.assembled.own_split and split_by != "text":
        yield f"data.split_by {split_by!r} has no effect: the source brings its own held-out prompts"


def repeated(facts: Facts) -> Iterator[str]:
    """The same text more than once."""
    texts = Counter((record.assigned, text_key(record)) for record in facts.assembled.records["train"])
    if copies := sum(count - 1 for count in texts.values()):
        verb = "repeat" if copies > 1 else "repeats"
        yield f"{copies} of the prompts {verb} the text of another of the same preference group; all count"


def answers_given_away(facts: Facts) -> Iterator[str]:
    """Reference answers that can be copied from the prompt."""
    prompts = [prompt for half in facts.assembled.prompts.values() for prompt in half]
    known = [(prompt, text) for prompt in prompts if (text := reference_of(prompt))]
    given = sum(len(text) >= LONG_REFERENCE and text.strip() in prompt.prompt for prompt, text in known)
    if given:
        verb = "prompt holds" if given == 1 else "prompts hold"
        yield f"{given} {verb} the reference answer itself, which can be copied"


def references_without_reward(facts: Facts) -> Iterator[str]:
    """Rewards that fail on reference answers, or give every one the same."""
    found = facts.references
    if found is None:
        return
    if found.problem is not None:
        yield f"the reference answers cannot be scored: {found.problem}"
    means = {value for pair in found.by_group.values() for value in (pair[0],)}
    if len(means) == 1 and not any(deviation for _, deviation in found.by_group.values()):
        yield (
            f"every reference answer gets the reward {next(iter(means)):g} from {', '.join(found.scored)}: "
            "it may tell good answers from bad ones, and does not tell these from each other"
        )


def groups_without_reward(facts: Facts) -> Iterator[str]:
    """Preference groups that every reward with a weight leaves out."""
    names = sorted(group.preference_group for group in facts.groups)
    for reward in facts.recipe.rewards:
        if reward.weight:
            names = [name for name in names if name not in (reward.preference_groups or names)]
    if len(names) > MAX_LINES:
        yield (
            f"no reward is for {len(names)} of {len(facts.groups)} preference groups ({names[0]!r} is one): "
            "all their completions get 0, and they learn nothing"
        )
        return
    for name in names:
        yield f"no reward is for preference group {name!r}: all its completions get 0, and it learns nothing"


def rewards_for_unknown_groups(facts: Facts) -> Iterator[str]:
    """Rewards that are limited to preference groups which the data do not have."""
    known = {group.preference_group for group in facts.groups}
    for reward in facts.recipe.rewards:
        for name in sorted(set(reward.preference_groups or ()) - known):
            yield f"reward {reward.label!r} is for preference group {name!r}, which the data do not have"


def rubrics_of_unknown_groups(facts: Facts) -> Iterator[str]:
    """Instructions to a judge for preference groups which the data do not have, and groups without any."""
    known = {group.preference_group for group in facts.groups}
    judges = [
        (f"reward {reward.label!r}: ", reward.preference_group_rubrics, reward.preference_groups)
        for reward in facts.recipe.rewards
        if isinstance(reward, JudgeReward)
    ]
    if (pairs := facts.recipe.eval.judge) is not None:
        judges.append(("eval.judge.", pairs.preference_group_rubrics, None))
    for where, given, asked in judges:
        for name in sorted(given.keys() - known):
            yield (
                f"{where}preference_group_rubrics has {name!r}, a preference group which the data do not have"
            )
        without = sorted(known.intersection(asked or known) - given.keys()) if given else []
        if without:
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            yield f"{where}preference_group_rubrics has nothing for preference group {without[0]!r}{more}"


def profiles_of_unknown_groups(facts: Facts) -> Iterator[str]:
    """Descriptions of preference groups which the data do not have."""
    section = facts.recipe.data.conditioning
    if not isinstance(section, ProfilesConditioning) or isinstance(section.profiles, str):
        return
    for name in sorted(set(section.profiles) - {group.preference_group for group in facts.groups}):
        yield f"data.conditioning.profiles describes {name!r}, a preference group which the data do not have"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


Rule = Callable[[Facts], Iterator[str]]

RULES: tuple[Rule, ...] = (
    one_dominates,
    few_prompts,
    nothing_held_out,
    gone,
    too_long,
    leaked,
    split_unused,
    repeated,
    answers_given_away,
    references_without_reward,
    groups_without_reward,
    rewards_for_unknown_groups,
    rubrics_of_unknown_groups,
    profiles_of_unknown_groups,
)
