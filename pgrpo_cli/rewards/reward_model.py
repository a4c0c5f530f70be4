"""A classifier's output as a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgrpo_cli.errors import ModelError, RewardError
from pgrpo_cli.pretrained.chat import Chat
from pgrpo_cli.recipe.rewards import RewardModelReward
from pgrpo_cli.recipe.templates import TemplateProblem

from .base import BuildContext, Completion, Score, where
from .pretrained import CLASSIFIER, Pretrained, load_pretrained, location_of


@dataclass(frozen=True)
class RewardModelFunction:
    """The reward of a `RewardModelReward` section, its model in memory."""

    section: RewardModelReward
    model: Pretrained
    chat: Chat | None = None
    """The chat template of the model, if it has one."""

    @property
    def parts(self) -> tuple[str, ...]:
        return self.section.parts

    @property
    def part_weights(self) -> dict[str, float]:
        return {"value": 1.0}

    @property
    def value_range(self) -> tuple[float, float] | None:
        if self.section.activation != "raw":
            return (0.0, 1.0)
        low, high = self.section.min, self.section.max
        return None if low is None or high is None else (low, high)

    def __call__(self, completions: Sequence[Completion]) -> list[Score]:
        chat = self.chat is not None
        inputs = [self._conversation(c) if chat else self._texts(c) for c in completions]

        def encode(places: Sequence[int]) -> Mapping[str, Any]:
            columns = zip(*(inputs[place] for place in places), strict=True)
            # A chat template writes the special tokens itself.
            return self.model.tokenized(*columns, special_tokens=not chat)

        rows = self.model.outputs([sum(map(len, texts)) for texts in inputs], encode, self._activated)
        values = [row.item() for row in rows]
        return [Score(value, {"value": value}) for value in values]

    def _activated(self, outputs: Any, tensors: Mapping[str, Any]) -> Any:
        """[batch, outputs] to [batch]."""
        logits, output = outputs.logits.float(), self.section.output
        if self.section.activation == "softmax":
            return logits.softmax(dim=-1)[:, output]
        if self.section.activation == "sigmoid":
            return logits[:, output].sigmoid()
        low, high = self.section.min, self.section.max
        return logits[:, output] if low is None or high is None else logits[:, output].clamp(low, high)

    def _conversation(self, completion: Completion) -> tuple[str]:
        """The conversation as the model's template writes it."""
        messages = [dict(message) for message in completion.messages]
        if not messages:
            raise RewardError(
                f"reward {self.section.label!r}: its model reads conversations, and the messages of the "
                f"prompt are not known; {where(completion)}",
                remedy="Run `pgrpo prepare` again; in `pgrpo rewards try`, give the prompt with --prompt.",
            )
        messages.append({"role": "assistant", "content": completion.text})
        assert self.chat is not None
        try:
            return (self.chat.text(messages),)
        except TemplateProblem as problem:
            raise RewardError(
                f"reward {self.section.label!r}: the chat template of {self.section.model!r} refuses the "
                f"conversation: {problem}; {where(completion)}",
                remedy="Take out what it refuses, or name another model.",
            ) from problem

    def _texts(self, completion: Completion) -> tuple[str, ...]:
        """Prompt and completion, as two texts where the tokenizer knows how to part them."""
        prompt = "\n\n".join(message["content"] for message in completion.messages) or completion.prompt
        tokenizer = self.model.tokenizer
        parted = tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(
            pair=False
        )
        if parted:
            return (prompt, completion.text)
        return (f"{prompt}\n\n{completion.text}" if prompt else completion.text,)


def build_reward_model(section: RewardModelReward, context: BuildContext) -> RewardModelFunction:
    """The factory of `type: reward_model`. Raises ModelError where the model cannot be loaded."""
    at = location_of(section, context.recipe_dir, section.label)
    model = load_pretrained(CLASSIFIER, section, at, device=context.device)
    names = model.model.config.id2label
    if section.output >= len(names):
        listed = ", ".join(f"{index} ({name})" for index, name in sorted(names.items()))
        raise ModelError(
            f"reward {section.label!r}: output {section.output} of {section.model!r}, which has {listed}",
            remedy="Set `output` to one of these numbers.",
        )
    if not model.tokenizer.chat_template:
        return RewardModelFunction(section, model)
    return RewardModelFunction(section, model, Chat(model.tokenizer, at.shown, remedy="Name another model."))
