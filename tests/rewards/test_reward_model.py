"""A reward model's output: the right text goes in, the right number comes out, whatever shares its batch."""

from __future__ import annotations

import math
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from pgrpo_cli.errors import ModelError, RewardError
from pgrpo_cli.model.load.random_model import random_model, random_tokenizer
from pgrpo_cli.model.rollout.workspace import Workspace
from pgrpo_cli.recipe.model import Nf4Quantization, RandomModel
from pgrpo_cli.recipe.rewards import RewardModelReward
from pgrpo_cli.rewards.base import BuildContext, Completion
from pgrpo_cli.rewards.reward_model import build_reward_model
from tests.support.reward_models import save_chat_classifier, save_pair_classifier

MESSAGES = ({"role": "user", "content": "hi"},)
TEXTS = ("yes", "no, never at all", "", "a b c d e f g", "maybe")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_chat_classifier(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair_classifier(tmp_path_factory.mktemp("pair"))


def built(folder: Path, **section):
    # The path is relative to the recipe's folder.
    context = BuildContext(folder.parent, allow_code=False)
    return build_reward_model(RewardModelReward(model=f"./{folder.name}", **section), context)


def values(function, *texts, messages=MESSAGES):
    completions = [Completion("p1", "fans", "rendered", text, {}, messages) for text in texts]
    return [score.value for score in function(completions)]


def chat_logits(folder, text):
    from transformers import LlamaForSequenceClassification

    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    written = f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{text}<|im_end|>\n"
    ids = random_tokenizer()(written, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(input_ids=ids).logits[0]


def pair_logits(folder, first, second):
    from transformers import AutoTokenizer, BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(folder).eval()
    encoded = AutoTokenizer.from_pretrained(folder)(first, second, return_tensors="pt")
    assert encoded["input_ids"].tolist()[0].count(3) == 2
    with torch.inference_mode():
        return model(**encoded).logits[0]


def test_a_chat_model_reads_the_conversation_whatever_shares_its_batch(chat: Path) -> None:
    expected = [chat_logits(chat, text)[0].item() for text in TEXTS]
    assert len({round(value, 4) for value in expected}) == len(TEXTS)
    for batch_size in (1, 2, 16):
        assert values(built(chat, batch_size=batch_size), *TEXTS) == pytest.approx(expected, abs=1e-5)


def test_another_model_reads_two_texts(pair: Path) -> None:
    function = built(pair, output=1)
    messages = ({"role": "system", "content": "be kind"}, *MESSAGES)
    expected = pair_logits(pair, "be kind\n\nhi", "yes")[1].item()
    assert values(function, "yes", messages=messages) == pytest.approx([expected], abs=1e-5)
    # Without messages the rendered prompt is what there is.
    expected = pair_logits(pair, "rendered", "yes")[1].item()
    assert values(function, "yes", messages=()) == pytest.approx([expected], abs=1e-5)


def test_activations(pair: Path) -> None:
    logits = pair_logits(pair, "hi", "yes")
    a, b = logits.tolist()
    assert values(built(pair, output=1, activation="sigmoid"), "yes") == pytest.approx(
        [1 / (1 + math.exp(-b))]
    )
    softmax = math.exp(b) / (math.exp(a) + math.exp(b))
    assert values(built(pair, output=1, activation="softmax"), "yes") == pytest.approx([softmax])
    low, high = b + 0.01, b + 0.02
    function = built(pair, output=1, min=low, max=high)
    assert values(function, "yes") == pytest.approx([low])
    assert function.value_range == (low, high)
    assert built(pair, activation="sigmoid").value_range == (0, 1)
    assert built(pair).value_range is None


def test_a_long_input_keeps_its_end(chat: Path) -> None:
    function = built(chat, max_tokens=40)
    ends = [f"{'x' * 100} the end", f"{'y' * 100} the end", f"{'x' * 100} the bad"]
    same, again, other = values(function, *ends)
    # "the end<|im_end|>\n" and what else fits differ by the letter before only.
    assert same != other
    tail = f"{'x' * 30} the end"
    assert values(function, f"{'z' * 50}{tail}") == pytest.approx([same], abs=1e-6)
    assert again != same


def test_a_long_prompt_is_cut_before_the_completion_is(pair: Path) -> None:
    # 16 tokens with [CLS] and two [SEP]: 13 letters.
    model = built(pair, max_tokens=16).model
    pairs = {
        ("abcdefgh", "klmnopqrst"): ("fgh", "klmnopqrst"),
        ("abcdefgh", "klmnopqrstuvw"): ("", "klmnopqrstuvw"),
        ("abcdefgh", "klmnopqrstuvwxyz"): ("", "nopqrstuvwxyz"),
        ("abc", "klmnopqrst"): ("abc", "klmnopqrst"),
        ("abc", "k"): ("abc", "k"),
    }
    tensors = model.tokenized(*zip(*pairs, strict=True))
    written = ["".join(model.tokenizer.convert_ids_to_tokens(ids)) for ids in tensors["input_ids"]]
    assert [text.replace("[PAD]", "") for text in written] == [
        f"[CLS]{prompt}[SEP]{completion}[SEP]" for prompt, completion in pairs.values()
    ]
    # The last one has 3 + 4 tokens, and its padding is masked.
    assert tensors["attention_mask"].sum(dim=1).tolist() == [16, 16, 16, 16, 7]


def test_nf4_comes_near_and_leaves_the_head_alone(tmp_path: Path) -> None:
    folder = save_chat_classifier(tmp_path / "wide", hidden_size=64)
    function = built(folder, quantization=Nf4Quantization())
    model = function.model.model
    assert type(model.model.layers[0].self_attn.q_proj).__name__ == "Linear4bit"
    assert type(model.score).__name__ == "Linear"
    plain = values(built(folder), *TEXTS)
    for found, expected in zip(values(function, *TEXTS), plain, strict=True):
        assert found == pytest.approx(expected, abs=0.2 * max(map(abs, plain)))


def test_memory_that_runs_out_halves_the_batch(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = built(chat, batch_size=8)
    expected = values(function, *TEXTS)
    forward, sizes = type(function.model.model).forward, []

    def short_of_memory(self, input_ids, **rest):
        sizes.append(len(input_ids))
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(type(function.model.model), "forward", short_of_memory)
    most = 2
    assert values(function, *TEXTS) == pytest.approx(expected, abs=1e-5)
    assert sizes == [5, 4, 2, 2, 1]
    most = 0
    with pytest.raises(RewardError, match="does not fit in the GPU's memory") as caught:
        values(function, *TEXTS)
    assert "max_tokens" in caught.value.remedy


def test_a_model_on_a_gpu_does_without_cudnns_attention(chat: Path) -> None:
    context = BuildContext(chat.parent, allow_code=False, device=torch.device("cuda"))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        # Where there is no GPU, it is said after the device has been set up.
        with suppress(ModelError):
            build_reward_model(RewardModelReward(model=f"./{chat.name}"), context)
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_memory_that_rollouts_keep_is_given_back_before_the_batch_is_halved(
    chat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, workspace = built(chat, batch_size=8), Workspace()
    expected = values(function, *TEXTS)
    forward, sizes = type(function.model.model).forward, []

    def short_of_memory(self, input_ids, **rest):
        sizes.append(len(input_ids))
        if workspace.bytes():
            # What cuBLAS says, which is no OutOfMemoryError of torch's.
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return forward(self, input_ids=input_ids, **rest)

    monkeypatch.setattr(type(function.model.model), "forward", short_of_memory)
    workspace.buffers.empty("keys.0", (4,), torch.zeros(0))
    assert values(function, *TEXTS) == pytest.approx(expected, abs=1e-5)
    assert (sizes, workspace.bytes()) == ([5, 5], 0)


def test_a_chat_model_without_messages_is_an_error_and_no_guess(chat: Path) -> None:
    with pytest.raises(RewardError, match=r"messages of the prompt are not known; prompt p1 of .*'fans'"):
        values(built(chat), "yes", messages=())


def with_template(chat: Path, folder: Path, template: str) -> Path:
    shutil.copytree(chat, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_what_the_template_refuses_is_said(chat: Path, tmp_path: Path) -> None:
    function = built(with_template(chat, tmp_path / "strict", "{{ raise_exception('no users here') }}"))
    with pytest.raises(RewardError, match="refuses the conversation: no users here; prompt p1"):
        values(function, "yes")


def test_a_template_that_takes_too_much_ends_the_run(chat: Path, tmp_path: Path) -> None:
    folder = with_template(chat, tmp_path / "greedy", "{{ 'a' * 10**9 }}")
    with pytest.raises(ModelError, match=r"reward 'reward_model': .*stopped for needing more") as caught:
        values(built(folder), "yes")
    assert caught.value.remedy == "Name another model."


def test_a_system_message_begins_the_first_users_where_there_is_no_place_for_it(
    chat: Path, tmp_path: Path
) -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + plain
    system = {"role": "system", "content": "Be kind."}
    folded = ({"role": "user", "content": "Be kind.\n\nhi"},)
    found = values(
        built(with_template(chat, tmp_path / "strict", strict)), "yes", messages=(system, *MESSAGES)
    )
    expected = values(built(with_template(chat, tmp_path / "plain", plain)), "yes", messages=folded)
    assert found == pytest.approx(expected)


def test_an_output_that_does_not_exist_lists_those_that_do(pair: Path) -> None:
    with pytest.raises(ModelError, match=r"output 2 of .*, which has 0 \(LABEL_0\), 1 \(LABEL_1\)"):
        built(pair, output=2)


def test_a_text_with_a_token_that_has_no_embedding_is_named(chat: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(chat, tmp_path / "more"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    tokenizer.save_pretrained(folder)
    function = built(folder)
    assert values(function, "yes") == pytest.approx(values(built(chat), "yes"))
    with pytest.raises(RewardError, match=r"special token '<image>', number 258, .* has 258 rows"):
        values(function, "an <image> here")


def test_a_language_model_is_no_reward_model(tmp_path: Path) -> None:
    random_model(RandomModel()).save_pretrained(tmp_path / "causal")
    random_tokenizer().save_pretrained(tmp_path / "causal")
    with pytest.raises(ModelError, match=r"lacks weights that .* needs: score\.weight"):
        built(tmp_path / "causal")


def test_pickled_weights_are_not_loaded(chat: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    shutil.copytree(chat, tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "pickled" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match=r"'reward_model': .*lacks .*, and has pickled") as caught:
        built(tmp_path / "pickled")
    assert "safetensors" in caught.value.remedy


def test_code_in_a_model_folder_is_not_run(chat: Path, tmp_path: Path) -> None:
    import json

    folder = Path(shutil.copytree(chat, tmp_path / "remote"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: ...\n")
    with pytest.raises(ModelError, match="cannot be loaded"):
        built(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model", ["./gone", "/gone/far"])
def test_a_missing_folder_is_named(tmp_path: Path, model: str) -> None:
    context = BuildContext(tmp_path, allow_code=False)
    with pytest.raises(ModelError, match=r"no folder .*gone"):
        build_reward_model(RewardModelReward(model=model), context)
