from dataclasses import replace

import pytest

from pgrpo_cli.data.prompts import PromptRenderer
from pgrpo_cli.data.records import PreparedPrompt, RejectedRow
from pgrpo_cli.errors import ModelError
from tests.support.records import record, user_record
from tests.support.tokenizer import byte_tokenizer

# "<s>user\nHi<e>\n<s>assistant\n" with a token a special sign and a byte:
# 1 + 5 + 2 + 1 + 1 + 1 + 10 = 21
HI_TOKENS = 21


def renderer(**changes):
    defaults = {
        "tokenizer": byte_tokenizer(),
        "system_prompt": None,
        "max_prompt_tokens": 1000,
        "max_completion_tokens": 10,
        "context": None,
    }
    return PromptRenderer(**(defaults | changes))


def one(made, found):
    """What becomes of one record."""
    (result,) = made([found])
    return result


def test_a_prompt_ends_where_the_assistant_begins():
    prompt = one(renderer(), record("Hi", "a", "p1", answer=42))
    assert isinstance(prompt, PreparedPrompt)
    assert prompt.prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert len(prompt.input_ids) == HI_TOKENS
    assert byte_tokenizer().decode(prompt.input_ids) == prompt.prompt
    assert (prompt.prompt_id, prompt.preference_group, prompt.columns) == ("p1", "a", {"answer": 42})
    assert prompt.messages == ({"role": "user", "content": "Hi"},)


def test_the_user_is_kept():
    assert one(renderer(), user_record("Hi", "ann")).user_id == "ann"
    assert one(renderer(), record("Hi")).user_id is None


def test_special_tokens_that_the_tokenizer_adds_by_itself_are_not_added_twice():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    begin = ("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin[0]} $A", special_tokens=[begin]
    )
    assert len(tokenizer("Hi")["input_ids"]) == 3
    assert len(one(renderer(tokenizer=tokenizer), record("Hi")).input_ids) == HI_TOKENS


def test_the_system_prompt_comes_first():
    assert one(renderer(system_prompt="Be kind."), record("Hi")).prompt.startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n"
    )


def test_a_system_message_of_its_own_stands():
    own = replace(
        record("Hi"), messages=({"role": "system", "content": "Mine."}, {"role": "user", "content": "Hi"})
    )
    text = one(renderer(system_prompt="Be kind."), own).prompt
    assert "Mine." in text
    assert "Be kind." not in text


@pytest.mark.parametrize(("limit", "fits"), [(HI_TOKENS, True), (HI_TOKENS - 1, False)])
def test_the_longest_prompt_is_one_of_max_prompt_tokens(limit, fits):
    result = one(renderer(max_prompt_tokens=limit), replace(record("Hi", "a"), file="f.jsonl", line=7))
    if fits:
        assert isinstance(result, PreparedPrompt)
    else:
        assert result.reason == "longer than data.max_prompt_tokens"
        assert result.detail == "21 tokens, data.max_prompt_tokens is 20"
        assert (result.where, result.preference_group) == ("f.jsonl:7", "a")


@pytest.mark.parametrize("where", ["model", "tokenizer"])
@pytest.mark.parametrize(("context", "fits"), [(HI_TOKENS + 10, True), (HI_TOKENS + 9, False)])
def test_prompt_and_completion_share_the_context(where, context, fits):
    if where == "model":
        result = one(renderer(context=context), record("Hi"))
    else:
        result = one(renderer(tokenizer=byte_tokenizer(max_length=context)), record("Hi"))
    assert isinstance(result, PreparedPrompt) == fits
    if not fits:
        assert result.reason == "longer than the model's context"
        assert result.detail == "21 tokens + 10 for the completion, the context is 30"


def test_a_tokenizer_without_chat_template_is_refused_with_a_remedy():
    with pytest.raises(ModelError, match=r"no chat template(.|\n)*model\.chat_template"):
        renderer(tokenizer=byte_tokenizer(chat_template=None))


def test_keyword_arguments_reach_the_template():
    template = "{{ messages[0]['content'] }}{% if thinking is defined %} thinking: {{ thinking }}{% endif %}"
    made = renderer(tokenizer=byte_tokenizer(chat_template=template), template_kwargs={"thinking": False})
    assert one(made, record("Hi")).prompt == "Hi thinking: False"


def test_a_conversation_that_the_template_refuses_is_a_rejected_row():
    template = "{{ messages[0].content }}{% if messages[1] %}{{ raise_exception('One turn!') }}{% endif %}"
    made = renderer(tokenizer=byte_tokenizer(chat_template=template))
    two = replace(record("Hi"), messages=({"role": "user", "content": "Hi"},) * 2)
    assert one(made, record("Hi")).prompt == "Hi"
    result = one(made, two)
    assert isinstance(result, RejectedRow)
    assert (result.reason, result.left_out) == ("refused by the chat template", False)
    assert "One turn!" in result.detail


def test_a_template_that_refuses_every_user_is_blamed_itself():
    with pytest.raises(ModelError, match=r"refuses a single message of a user: .*No!") as caught:
        renderer(tokenizer=byte_tokenizer(chat_template="{{ raise_exception('No!') }}"))
    assert "model.chat_template" in caught.value.remedy


NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ m.content }}|{% endfor %}"
)


def test_a_system_prompt_for_a_template_without_system_role_is_noted_once():
    made = renderer(tokenizer=byte_tokenizer(chat_template=NO_SYSTEM), system_prompt="Be kind.")
    prompts = [one(made, record(text)) for text in ("Hi", "Bye")]
    assert [prompt.prompt for prompt in prompts] == ["Be kind.\n\nHi|", "Be kind.\n\nBye|"]
    assert prompts[0].messages[0] == {"role": "system", "content": "Be kind."}
    (note,) = made.notes(prompts)
    assert "no place for a system message" in note


def test_nothing_is_noted_without_system_messages_or_where_they_have_a_place():
    without = renderer(tokenizer=byte_tokenizer(chat_template=NO_SYSTEM))
    assert without.notes([one(without, record("Hi"))]) == ()
    chatml = renderer(system_prompt="Be kind.")
    assert chatml.notes([one(chatml, record("Hi"))]) == ()


def test_a_row_with_a_token_that_has_no_embedding_is_rejected():
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    # 256 bytes and two special tokens.
    made = renderer(tokenizer=tokenizer, vocabulary=258)
    assert isinstance(one(made, record("Hi")), PreparedPrompt)
    result = one(made, record("an <image> here"))
    assert result.reason == "a token that the model does not know"
    assert result.detail == "'<image>', token 258 of the tokenizer, and the model has 258 tokens"
    assert isinstance(
        one(renderer(tokenizer=tokenizer, vocabulary=259), record("an <image> here")), PreparedPrompt
    )


def test_a_template_that_writes_tokens_without_embedding_is_refused():
    with pytest.raises(ModelError, match=r"writes '<\|im_end\|>', token 1 .* the model has 1 tokens"):
        renderer(tokenizer=byte_tokenizer(chat_template="<|im_end|>{{ messages }}"), vocabulary=1)


def test_the_template_is_hashed():
    plain = renderer().template_sha256
    assert renderer().template_sha256 == plain
    assert renderer(tokenizer=byte_tokenizer(chat_template="{{ messages }}")).template_sha256 != plain
