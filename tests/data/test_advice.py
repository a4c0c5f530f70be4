import pytest

from pgrpo_cli.data.advice import FEW_PROMPTS, Facts, warnings_about
from pgrpo_cli.data.assemble import Assembled
from pgrpo_cli.data.preference_groups import Fitted
from pgrpo_cli.data.records import RejectedRow
from pgrpo_cli.data.references import ReferenceRewards
from pgrpo_cli.data.summary import count_groups
from pgrpo_cli.recipe.evaluation import PairJudge
from pgrpo_cli.recipe.schema import Recipe
from tests.support.records import prompt, record


def recipe(rewards=({"type": "length", "max": 5},), train=None, **data):
    return Recipe.model_validate(
        {
            "name": "test",
            "model": {"id": "random"},
            "data": {"source": {"type": "jsonl", "path": "rows.jsonl"}, **data},
            "rewards": list(rewards),
            "train": train or {},
        }
    )


def warnings(train, rejected=(), evaluation=(), *, made=None, references=None, fitted=(), **columns):
    records = {"train": tuple(train), "eval": tuple(evaluation)}
    prompts = {
        half: [prompt(r.prompt_id, r.preference_group, **columns) for r in members]
        for half, members in records.items()
    }
    assembled = Assembled(
        records, prompts, (), tuple(rejected), Fitted(lambda record: "", warnings=tuple(fitted))
    )
    facts = Facts(made or recipe(), assembled, count_groups(prompts), references)
    return list(warnings_about(facts))


def enough(*groups, size=FEW_PROMPTS):
    return [record(f"{i}", group) for i in range(size) for group in groups]


HELD_OUT = [record("x"), record("x", "b")]


def test_enough_different_prompts_with_held_out_ones_are_worth_no_warning():
    assert warnings(enough("a", "b"), evaluation=HELD_OUT) == []


def test_a_profile_of_a_group_that_the_data_lack_is_warned_about():
    profiles = {"a": "x", "b": "y", "c": "z"}
    made = recipe(conditioning={"type": "profiles", "profiles": profiles})
    (warning,) = warnings(enough("a", "b"), evaluation=HELD_OUT, made=made)
    assert "describes 'c', a preference group which the data do not have" in warning
    auto = recipe(conditioning={"type": "profiles", "profiles": "auto"})
    assert warnings(enough("a", "b"), evaluation=HELD_OUT, made=auto) == []


def test_a_single_group_is_warned_about():
    (warning,) = warnings(enough("a"), evaluation=HELD_OUT[:1])
    assert warning.startswith("there is only one preference group, 'a'")


def test_a_group_that_has_nearly_everything_is_warned_about():
    # 160 of 176 are 10/11; of 8 prompts a step 8/11 are left for the others.
    rows = [*enough("a", size=160), *enough("b")]
    (warning,) = warnings(rows, evaluation=HELD_OUT, made=recipe())
    assert (
        "'a' has 91% of the training prompts: of the 8 prompts of a step, about 0.7 are of all others"
        in warning
    )
    assert warnings([*enough("a", size=144), *enough("b")], evaluation=HELD_OUT) == []
    # Every preference group is sampled equally often then, however few its prompts are.
    balanced = recipe(train={"sampler": "balanced"})
    assert warnings(rows, evaluation=HELD_OUT, made=balanced) == []


def test_groups_that_no_reward_is_for_are_warned_about():
    only = {"type": "length", "max": 5, "preference_groups": ["b"]}
    without_weight = {"type": "length", "name": "shown", "max": 5, "weight": 0}
    (warning,) = warnings(enough("a", "b"), evaluation=HELD_OUT, made=recipe([only, without_weight]))
    assert (
        warning == "no reward is for preference group 'a': all its completions get 0, and it learns nothing"
    )
    rewards = [only, {**without_weight, "weight": 0.5}]
    assert warnings(enough("a", "b"), evaluation=HELD_OUT, made=recipe(rewards)) == []
    many = [record(f"{group}/{i}", group) for group in "abcdef" for i in range(FEW_PROMPTS)]
    (warning,) = warnings(many, evaluation=[record("x", group) for group in "abcdef"], made=recipe([only]))
    assert warning.startswith("no reward is for 5 of 6 preference groups ('a' is one): all their completions")


def test_a_small_group_is_warned_about():
    (warning,) = warnings([*enough("a"), *enough("b", size=15)], evaluation=HELD_OUT)
    assert "'b' has only 15 training prompts; under 16" in warning


def test_many_small_groups_are_told_in_one_line():
    names = [f"g{n}" for n in range(9)]
    told = warnings([*enough("a"), *enough(*names, size=2)], evaluation=[record("x")])
    assert told == [
        "9 of 10 preference groups have fewer than 16 training prompts ('g8' has 2): "
        "the spread of their rewards is a guess",
        "9 of 10 preference groups have no held-out prompt to evaluate them on ('g0' is one)",
    ]


def test_a_group_without_held_out_prompts_is_warned_about():
    (warning,) = warnings(enough("a", "b"), evaluation=HELD_OUT[:1])
    assert "'b' has no held-out prompt" in warning


def test_a_group_whose_rows_are_all_rejected_is_warned_about():
    rejected = [RejectedRow("empty prompt", "", "f", 1, "c"), RejectedRow("empty prompt", "", "f", 2, "a")]
    (warning,) = warnings(enough("a", "b"), rejected, HELD_OUT)
    assert warning == "preference group 'c' is gone: all its rows were rejected"
    by_user = recipe(preference_groups={"type": "random", "count": 2})
    assert warnings(enough("a", "b"), rejected, HELD_OUT, made=by_user) == []


def test_repeated_texts_are_counted_within_a_preference_group():
    rows = [*enough("a", "b"), record("3", "a", "again"), record("3", "a", "and again")]
    (warning,) = warnings(rows, evaluation=HELD_OUT)
    assert warning.startswith("2 of the prompts repeat the text")


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("longer than data.max_prompt_tokens", "15% of the rows are longer than data.max_prompt_tokens"),
        ("longer than the model's context", "lower rollout.max_completion_tokens"),
    ],
)
def test_many_prompts_beyond_a_limit_are_warned_about(reason, words):
    # 6 of 32 + 2 + 6 = 40 rows are 15 %.
    (warning,) = warnings(enough("a", "b"), [RejectedRow(reason, "")] * 6, HELD_OUT)
    assert words in warning
    assert warnings(enough("a", "b"), [RejectedRow(reason, "")], HELD_OUT) == []


def test_prompts_lost_to_the_held_out_half_are_warned_about():
    rejected = [RejectedRow("text is held out for evaluation too", "")] * 8
    (warning,) = warnings(enough("a", "b"), rejected, HELD_OUT, made=recipe(split_by="user"))
    assert warning == (
        "8 prompts left training because the same text is held out (32 are left); "
        "data.split_by 'text' loses none"
    )


def test_answers_that_the_prompt_gives_away_are_counted():
    # The rendered prompt is "text of 0", "text of 1", ...
    (warning,) = warnings(
        [*enough("a", "b"), record("a reference answer")], evaluation=HELD_OUT,
        reference="text of a reference answer ",
    )  # fmt: skip
    assert warning == "1 prompt holds the reference answer itself, which can be copied"
    assert warnings(enough("a", "b"), evaluation=HELD_OUT, reference="text of 1") == []


def test_reference_answers_that_cannot_be_told_apart_are_warned_about():
    same = ReferenceRewards({"a": (0.5, 0.0), "b": (0.5, None)}, ("length",), ())
    (warning,) = warnings(enough("a", "b"), evaluation=HELD_OUT, references=same)
    assert warning.startswith("every reference answer gets the reward 0.5 from length")
    for by_group in ({"a": (0.5, 0.1)}, {"a": (0.5, 0.0), "b": (0.4, 0.0)}):
        spread = ReferenceRewards(by_group, ("length",), ())
        assert warnings(enough("a", "b"), evaluation=HELD_OUT, references=spread) == []
    (failed,) = warnings(
        enough("a", "b"), evaluation=HELD_OUT, references=ReferenceRewards({}, ("length",), (), "boom")
    )
    assert failed == "the reference answers cannot be scored: boom"


def test_rewards_for_groups_that_there_are_not_are_named():
    made = recipe([{"type": "length", "max": 5, "preference_groups": ["a", "b", "z"]}])
    (warning,) = warnings(enough("a", "b"), evaluation=HELD_OUT, made=made)
    assert warning == "reward 'length' is for preference group 'z', which the data do not have"


JUDGE = {"type": "judge", "base_url": "http://localhost/v1", "model": "m"}


def judged(rubrics, **section):
    """Warnings about a recipe with those instructions in a reward and in eval.judge."""
    made = recipe([{**JUDGE, "preference_group_rubrics": rubrics, **section}, {"type": "length", "max": 5}])
    pairs = PairJudge(base_url="http://localhost/v1", model="m", preference_group_rubrics=rubrics)
    made = made.model_copy(update={"eval": made.eval.model_copy(update={"judge": pairs})})
    return warnings(enough("a", "b", "c"), evaluation=[*HELD_OUT, record("x", "c")], made=made)


def test_rubrics_for_groups_that_there_are_not_are_named():
    assert judged({"a": "x", "b": "y", "c": "z", "B": "y"}) == [
        "reward 'judge': preference_group_rubrics has 'B', a preference group which the data do not have",
        "eval.judge.preference_group_rubrics has 'B', a preference group which the data do not have",
    ]


def test_groups_without_a_rubric_are_named_where_others_have_one():
    assert judged({"a": "x", "b": "y"}, preference_groups=["a", "b"]) == [
        "eval.judge.preference_group_rubrics has nothing for preference group 'c'"
    ]
    assert "has nothing for preference group 'b' and 1 more" in judged({"a": "x"})[0]
    assert judged({}) == []


def test_what_the_assigner_found_comes_first():
    found = warnings(enough("a", "b"), evaluation=HELD_OUT[:1], fitted=["no better than chance"])
    assert found[0] == "no better than chance"
    assert len(found) == 2
