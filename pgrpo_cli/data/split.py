"""Holding prompts out for evaluation: no text in both halves, every preference group in the training half."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pgrpo_cli.seeding import derive_seed

from .records import PromptRecord, text_key


def split_by_text(
    records: Sequence[PromptRecord], eval_fraction: float, seed: int
) -> tuple[list[PromptRecord], list[PromptRecord]]:
    """(train, eval), each in the order given; together they are `records`.

    Texts are held out in the order of a seeded hash, for each preference group `eval_fraction` of its texts
    and at least one. A text goes to one half for all preference groups that share it, and stays in training
    where one of them would have none left there: a group's held-out share may fall short, or exceed.
    """
    texts = [text_key(record) for record in records]
    groups_of: dict[str, set[str]] = defaultdict(set)
    texts_of: dict[str, set[str]] = defaultdict(set)
    for record, text in zip(records, texts, strict=True):
        groups_of[text].add(record.preference_group)
        texts_of[record.preference_group].add(text)
    rank = {text: (derive_seed(seed, "split", text), text) for text in groups_of}
    left_in_training = {group: len(members) for group, members in texts_of.items()}
    held_out: set[str] = set()
    for group in sorted(texts_of, key=lambda group: (len(texts_of[group]), group)):
        members = texts_of[group]
        quota = max(1, round(eval_fraction * len(members)))
        for text in sorted(members, key=rank.__getitem__):
            if len(members) - left_in_training[group] >= quota:
                break
            if text not in held_out and all(left_in_training[other] > 1 for other in groups_of[text]):
                held_out.add(text)
                for other in groups_of[text]:
                    left_in_training[other] -= 1
    train = [record for record, text in zip(records, texts, strict=True) if text not in held_out]
    evaluation = [record for record, text in zip(records, texts, strict=True) if text in held_out]
    return train, evaluation
