"""What may name a model."""

import pytest

from tests.support.recipes import changed, problems_of


@pytest.mark.parametrize(
    "name",
    [
        "some/model",
        "gpt2",
        "a/b/c",
        "./my model",
        "~/Größe",
        "/x y",
        "$HOME/x y",
        "x y.gguf",
        "package:a/b.gguf",
    ],
)
def test_ids_and_paths(tmp_path, name):
    assert problems_of(tmp_path, changed(model={"id": name})) == ()


@pytest.mark.parametrize("name", ["some/mo\u00a0del", "my model", "some/model?", "a//b", "Größe", "-x", ""])
def test_what_is_neither_is_refused_when_the_recipe_is_read(tmp_path, name):
    reward = {"type": "reward_model", "model": name}
    (first, second) = problems_of(tmp_path, changed(model={"id": name}, rewards=[reward]))
    assert first.path == ("model", "id")
    assert second.path == ("rewards", 0, "model")
    if name:
        assert "a hub id has letters, digits" in first.text
        assert "./" in first.text


@pytest.mark.parametrize("targets", ["q_proj", "(", "(a+)+$", [], ["q_proj", ""]])
def test_target_modules_are_names_and_no_pattern(tmp_path, targets):
    (problem,) = problems_of(tmp_path, changed(adapter={"target_modules": targets}))
    assert "must be all-linear or a list of names" in problem.text


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["q_proj", "mlp.up_proj"]])
def test_target_modules(tmp_path, targets):
    assert problems_of(tmp_path, changed(adapter={"target_modules": targets})) == ()


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "add_generation_prompt", "messages", "tools"])
def test_variables_of_the_chat_template_do_not_replace_its_arguments(tmp_path, name):
    (problem,) = problems_of(tmp_path, changed(model={"id": "random", "chat_template_kwargs": {name: "x"}}))
    assert f"must not have {name}" in problem.text
    assert ("model.chat_template" in problem.text) == (name == "chat_template")
    fine = {"enable_thinking": False, "date": "today"}
    assert problems_of(tmp_path, changed(model={"id": "random", "chat_template_kwargs": fine})) == ()
