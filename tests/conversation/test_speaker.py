"""Answers piece by piece: what is shown is what an evaluation with the same seed would draw."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from pgrpo_cli.conversation.speaker import Reply, Speaker, load_speaker
from pgrpo_cli.data.records import PreparedPrompt
from pgrpo_cli.errors import DataError, TrainingError
from pgrpo_cli.eval.sampling import eval_sampling
from pgrpo_cli.eval.targets import eval_target, sampling_of
from pgrpo_cli.model.rollout.sample import sample
from pgrpo_cli.state.run import run_at
from tests.support.training import trained, write_tiny

QUESTION = [{"role": "user", "content": "often 3"}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose adapter has moved far from the base model."""
    folder = tmp_path_factory.mktemp("spoken")
    trained(write_tiny(folder), folder / "run", "--set", "train.learning_rate=0.3")
    return folder / "run"


@pytest.fixture(scope="module")
def speaker(run: Path) -> Speaker:
    directory = run_at(run)
    target = eval_target(directory, directory.recipe(), directory.recipe_dir)
    return load_speaker(target, torch.device("cpu"))


def _sampled(speaker: Speaker, seed: int, **settings: Any) -> str:
    """What an evaluation samples for the same text with the same seed."""
    text = speaker.rendered(QUESTION)
    ids = tuple(speaker.policy.tokenizer(text, add_special_tokens=False)["input_ids"])
    drawn = replace(
        eval_sampling(sampling_of(speaker.recipe.eval, speaker.recipe.rollout)), num_generations=1, **settings
    )
    rollouts = sample(speaker.policy, [PreparedPrompt("conversation", "", text, ids)], drawn, seed=seed)
    return rollouts.texts_N[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_answer_is_the_completion_of_an_evaluation_with_that_seed(speaker: Speaker, seed: int) -> None:
    assert speaker.ask(QUESTION, seed=seed).read() == _sampled(speaker, seed)
    with speaker.policy.base():
        expected = _sampled(speaker, seed)
    assert speaker.ask(QUESTION, which="base", seed=seed).read() == expected


def test_answers_of_one_batch_are_those_that_are_asked_for_one_by_one(speaker: Speaker) -> None:
    other = [{"role": "user", "content": "a longer question: seldom 11"}]
    asked = [(QUESTION if seed % 2 else other, seed) for seed in range(16)]
    found = speaker.answers(
        [messages for messages, _ in asked], which="base", seeds=[seed for _, seed in asked]
    )
    assert found == [speaker.ask(messages, which="base", seed=seed).read() for messages, seed in asked]
    # Some end before the others, and what follows their end is no token of theirs.
    rendered = [speaker.rendered(messages) for messages, _ in asked]
    ids = [tuple(speaker.policy.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in rendered]
    prompts = [
        PreparedPrompt("conversation", "", text, tokens) for text, tokens in zip(rendered, ids, strict=True)
    ]
    drawn = eval_sampling(sampling_of(speaker.recipe.eval, speaker.recipe.rollout))
    settings = replace(drawn, num_generations=1, max_completion_tokens=200)
    tokens_N = speaker.decode(prompts, "base", [seed for _, seed in asked], settings)
    stops = set(speaker.policy.stop_token_ids)
    assert not any(stops.intersection(tokens[:-1]) for tokens in tokens_N)
    assert len({len(tokens) for tokens in tokens_N}) > 1


def test_training_changed_what_is_said(speaker: Speaker) -> None:
    tuned = [speaker.ask(QUESTION, seed=seed).read() for seed in range(5)]
    base = [speaker.ask(QUESTION, which="base", seed=seed).read() for seed in range(5)]
    assert tuned != base


def test_temperature_0_takes_the_likeliest_token_whatever_the_seed(speaker: Speaker) -> None:
    answers = {speaker.ask(QUESTION, seed=seed, temperature=0).read() for seed in range(3)}
    assert answers == {_sampled(speaker, 0, greedy=True, temperature=1.0)}


def test_an_answer_may_be_longer_than_in_training(speaker: Speaker) -> None:
    reply = speaker.ask(QUESTION, max_tokens=64)
    assert speaker.max_tokens == 8
    assert reply.read() == _sampled(speaker, 0, max_completion_tokens=64)


def test_pieces_make_the_text_and_the_prompt_is_what_the_model_saw(speaker: Speaker) -> None:
    reply = speaker.ask(QUESTION, max_tokens=200)
    pieces = list(reply)
    assert "".join(pieces) == reply.text
    assert reply.prompt == speaker.rendered(QUESTION)
    assert "often 3" in reply.prompt


def test_pieces_keep_the_spaces_at_the_beginning_of_a_line() -> None:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        "▁def",
        "▁f",
        "():",
        "<0x0A>",
        "▁▁▁",
        "▁return",
        "▁x",
        "<0xC3>",
        "<0xA9>",
    ]
    made = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, [], byte_fallback=True))
    # As Llama 2, Mistral and Phi-3 have it.
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>")
    ids = [*range(3, len(tokens)), 2]

    def decode(*asked: Any, streamer: Any) -> list[list[int]]:
        for value in ([[1, 1]], *([token] for token in ids)):
            streamer.put(torch.tensor(value))
        return [ids]

    policy = SimpleNamespace(tokenizer=tokenizer, stop_token_ids=(2,))
    speaker: Any = SimpleNamespace(policy=policy, decode=decode)
    reply = Reply(speaker, PreparedPrompt("p", "", "", (1, 1)), "tuned", 0, None, Event())
    pieces = list(reply)
    assert "".join(pieces) == reply.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert reply.text == "def f():\n    return xé"
    assert pieces[-2:] == [" x", "é"]


def test_an_answer_that_nobody_waits_for_stops(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    decode = speaker.decode

    def counted(*arguments: Any, **options: Any) -> list[list[int]]:
        (ids,) = decode(*arguments, **options)
        lengths.append(len(ids))
        return [ids]

    monkeypatch.setattr(speaker, "decode", counted)
    reply = speaker.ask(QUESTION, max_tokens=1500)
    pieces = reply.__iter__()
    first = next(pieces)
    pieces.close()
    # It has ended neither by a stop token nor by its limit.
    assert not reply.finished and lengths[0] < 1500
    assert reply.text == first
    monkeypatch.undo()
    assert speaker.ask(QUESTION).read() == _sampled(speaker, 0)


def test_answers_end_after_the_token_at_hand_when_they_are_asked_to(speaker: Speaker) -> None:
    whole = speaker.answers([QUESTION] * 3, which="base", seeds=[0, 1, 2])
    stop = Event()
    stop.set()
    reply = speaker.ask(QUESTION, max_tokens=1500, stop=stop)
    reply.read()
    assert reply.tokens == 1
    cut = speaker.answers([QUESTION] * 3, which="base", seeds=[0, 1, 2], stop=stop)
    assert max(map(len, cut)) < max(map(len, whole))
    assert all(text.startswith(part) for text, part in zip(whole, cut, strict=True))


def test_an_answer_can_be_stopped_from_another_thread(speaker: Speaker) -> None:
    reply = speaker.ask(QUESTION, max_tokens=1500)
    pieces = reply.__iter__()
    next(pieces)
    Thread(target=reply.stop).start()
    rest = "".join(pieces)
    assert reply.text.endswith(rest)
    assert not reply.finished
    assert 0 < reply.tokens < 1500


def test_tokens_are_counted_and_top_p_is_heeded(speaker: Speaker) -> None:
    reply = speaker.ask(QUESTION, max_tokens=20, temperature=0)
    reply.read()
    prompt = speaker.policy.tokenizer(reply.prompt, add_special_tokens=False)["input_ids"]
    assert (reply.tokens, reply.prompt_tokens) == (20, len(prompt))
    # The likeliest token alone is left, so nothing is drawn.
    likeliest = {speaker.ask(QUESTION, seed=seed, max_tokens=20, top_p=1e-6).read() for seed in range(2)}
    assert likeliest == {reply.text}


def test_a_conversation_that_is_too_long_is_refused_before_anything_is_computed(speaker: Speaker) -> None:
    long = [{"role": "user", "content": "word " * 2500}]
    with pytest.raises(DataError, match=r"the conversation has \d+ tokens; with 8 for the answer"):
        speaker.ask(long)


def test_what_fails_in_the_model_reaches_whoever_waits(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.")

    monkeypatch.setattr(speaker, "decode", fail)
    with pytest.raises(TrainingError, match="does not hold this conversation"):
        speaker.ask(QUESTION).read()


def test_a_checkpoint_of_a_run_that_still_trains_can_be_asked(run: Path, tmp_path: Path) -> None:
    unfinished = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(unfinished / "adapter")
    directory = run_at(unfinished)
    target = eval_target(directory, directory.recipe(), directory.recipe_dir)
    assert load_speaker(target, torch.device("cpu")).ask(QUESTION).read()
