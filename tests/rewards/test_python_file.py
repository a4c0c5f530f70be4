import math
import sys

import pytest

from pgrpo_cli.errors import RecipeError, RewardError
from pgrpo_cli.recipe.rewards import PythonReward
from pgrpo_cli.rewards.base import Completion
from pgrpo_cli.rewards.build import build_rewards
from tests.support.rewards import scored

ECHO = """
seen = {}
def reward(prompts, completions, **columns):
    seen.update(prompts=prompts, completions=completions, columns=columns)
    return [len(text) for text in completions]
"""


@pytest.fixture(params=["def", "async def"])
def define(request):
    """How the function begins: it is called in the same way when it is awaited."""
    return request.param


def build(tmp_path, source, *, allow_code=True, **section):
    (tmp_path / "mine.py").write_text(source)
    return build_rewards([PythonReward(file="mine.py", **section)], tmp_path, allow_code)


def completions():
    return [
        Completion("p1", "a", "Question 1", "yes", {"answer": 1, "tag": "t"}),
        Completion("p2", "b", "Question 2", "no", {"answer": 2}),
    ]


def test_it_is_called_as_trl_calls_rewards(tmp_path, define):
    rewards = build(tmp_path, ECHO.replace("def", define))
    assert [score.value for score in scored(rewards, completions())] == [3.0, 2.0]
    seen = rewards.terms[0].function.function.__globals__["seen"]
    assert seen["prompts"] == ["Question 1", "Question 2"]
    assert seen["completions"] == ["yes", "no"]
    assert seen["columns"] == {
        "answer": [1, 2],
        "tag": ["t", None],
        "preference_group": ["a", "b"],
        "prompt_id": ["p1", "p2"],
    }


def test_its_one_part_is_recorded_under_its_name(tmp_path):
    assert scored(build(tmp_path, ECHO, name="length"), completions())[0].parts == {"length": 3.0}


def test_none_is_nan(tmp_path, define):
    source = f"{define} reward(prompts, completions, **columns): return [None, 1]"
    scores = scored(build(tmp_path, source), completions())
    assert math.isnan(scores[0].value)
    assert scores[0].parts == {}
    assert scores[1].value == 1.0


def test_another_function_can_be_named(tmp_path):
    source = "def other(prompts, completions, **columns): return [7 for _ in prompts]"
    assert scored(build(tmp_path, source, function="other"), completions())[0].value == 7.0


def test_without_leave_the_file_is_named_and_not_run(tmp_path):
    touched = tmp_path / "touched"
    with pytest.raises(RecipeError) as caught:
        build(tmp_path, f"open({str(touched)!r}, 'w')", allow_code=False)
    assert str(tmp_path / "mine.py") in str(caught.value)
    assert "--allow-code" in str(caught.value)
    assert not touched.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"gone\.py, which does not exist"):
        build_rewards([PythonReward(file="gone.py")], tmp_path, True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def reward(:", "SyntaxError"),
        ("import no_such_package_of_mine", "ModuleNotFoundError: No module named 'no_such_package_of_mine'"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_file_that_fails_to_import_says_how(tmp_path, source, said):
    before = set(sys.modules)
    with pytest.raises(RecipeError, match=said) as caught:
        build(tmp_path, source)
    assert "mine.py" in str(caught.value)
    assert not [name for name in set(sys.modules) - before if name.startswith("pgrpo_recipe_code")]


def test_where_an_import_fails_is_told_with_the_line(tmp_path):
    (tmp_path / "near.py").write_text("\nVALUE = 1 / 0\n")
    with pytest.raises(RecipeError) as caught:
        build(tmp_path, "import near")
    assert caught.value.message.endswith(f"\n  {tmp_path / 'near.py'}:2: VALUE = 1 / 0")
    assert "modules in its own folder are found" in str(caught.value.remedy)
    with pytest.raises(RecipeError) as caught:
        build(tmp_path, "x = 1\ndef reward(:\n")
    assert caught.value.message.endswith(f"\n  {tmp_path / 'mine.py'}:2: def reward(:")


def test_a_missing_function_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match=r"no function 'rewards'; did you mean 'reward'\?"):
        build(tmp_path, ECHO, function="rewards")


def test_an_absolute_path_is_taken_as_it_is(tmp_path):
    (tmp_path / "mine.py").write_text(ECHO)
    sections = [PythonReward(file=str(tmp_path / "mine.py"))]
    assert scored(build_rewards(sections, tmp_path / "elsewhere", True), completions())[0].value == 3.0


def test_two_files_of_one_name_stay_apart(tmp_path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        text = f"VALUE = {value}\ndef reward(prompts, completions, **columns): return [VALUE] * len(prompts)"
        (tmp_path / folder / "mine.py").write_text(text)
    sections = [PythonReward(file=f"{folder}/mine.py", name=folder) for folder in "ab"]
    rewards = build_rewards(sections, tmp_path, True)
    assert scored(rewards, completions())[0].parts == {"a": 1.0, "b": 2.0}
    modules = {term.function.function.__module__ for term in rewards.terms}
    assert len(modules) == 2


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("'high'", "'high' where a list of numbers was due"),
        ("None", "None where a list of numbers was due"),
        ("0.5", "'float' object is not iterable"),
        ("['a', 'b']", "returned 'a' (str), which is no finite number; prompt p1"),
        ("[1.0]", "returned 1 values for 2 completions"),
    ],
)
def test_what_is_no_list_of_numbers_is_explained(tmp_path, define, returned, said):
    rewards = build(tmp_path, f"{define} reward(prompts, completions, **columns): return {returned}")
    with pytest.raises(RewardError) as caught:
        scored(rewards, completions())
    assert said in str(caught.value)


def test_a_function_without_room_for_columns_is_explained(tmp_path, define):
    rewards = build(tmp_path, f"{define} reward(prompts, completions): return [1, 2]")
    with pytest.raises(RewardError, match="unexpected keyword argument"):
        scored(rewards, completions())


def test_an_awaited_function_sees_the_columns_of_its_own_batch(tmp_path):
    source = """
seen = []
async def reward(completions, answer, prompt_id, **columns):
    seen.append((completions, answer, prompt_id))
    return answer
"""
    rewards = build(tmp_path, source)
    assert [score.value for score in scored(rewards, completions(), batch=1)] == [1.0, 2.0]
    seen = rewards.terms[0].function.function.__globals__["seen"]
    assert seen == [(["yes"], [1], ["p1"]), (["no"], [2], ["p2"])]


def test_a_function_that_only_hands_on_a_coroutine_is_explained(tmp_path):
    source = """
async def judge(completions): return [1.0 for _ in completions]
def reward(prompts, completions, **columns): return judge(completions)
"""
    with pytest.raises(RewardError, match="it returned a coroutine and is no `async def` function itself"):
        scored(build(tmp_path, source), completions())


RAISES = """
def check(text):
    return {line}

def reward(prompts, completions, **columns):
    return [check(text) for text in completions]
"""


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("1 / 0", "Correct the reward, or let it return NaN"),
        ("text[0]['content']", "are lists of texts here, not of messages"),
        ("text.get('content')", "are lists of texts here, not of messages"),
        ("__import__('json').loads('{')", "Correct the reward"),
    ],
)
def test_the_line_that_raises_is_told_with_what_may_be_the_matter(tmp_path, define, line, hint):
    rewards = build(tmp_path, RAISES.format(line=line).replace("def reward", f"{define} reward"))
    with pytest.raises(RewardError) as caught:
        scored(rewards, completions())
    assert "; prompt p1 of preference group 'a', completion 'yes'" in caught.value.message
    # The user's own line, also where a library of Python's raised.
    assert caught.value.message.endswith(f"\n  {tmp_path / 'mine.py'}:3: return {line}")
    assert hint in str(caught.value.remedy)


def test_a_function_that_cannot_be_called_is_told_how_it_is_called(tmp_path, define):
    source = f"{define} reward(prompts, completions): return [1, 2]"
    with pytest.raises(RewardError) as caught:
        scored(build(tmp_path, source), completions())
    assert caught.value.message.endswith(f"\n  {tmp_path / 'mine.py'}:1: {source}")
    called = "f(answer=[...], tag=[...], preference_group=[...], prompt_id=[...], prompts=[...], completions"
    assert called in str(caught.value.remedy) and "**columns" in str(caught.value.remedy)


class Odd(Exception):
    def __str__(self):
        raise ValueError


def test_what_an_error_says_is_cut_and_may_fail(tmp_path):
    source = "def reward(prompts, completions, **columns): raise {}"
    with pytest.raises(RewardError) as caught:
        scored(build(tmp_path, source.format("ValueError('x' * 10**6)")), completions())
    assert len(caught.value.message) < 1500
    source = f"from {__name__} import Odd\n{source.format('Odd')}"
    with pytest.raises(RewardError, match="raised Odd: it cannot say why"):
        scored(build(tmp_path, source), completions())
