"""From what a source read to two halves of prompts, every prompt in its preference group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pgrpo_cli.recipe.data import DataSection

from .conditioning.apply import Applied, apply
from .preference_groups import Assigner, Fitted, assign
from .prompts import PromptRenderer
from .records import PreparedPrompt, PromptRecord, RejectedRow, SourceData
from .split import Split, keep_apart, split

# Called with (done, total) as prompts are rendered.
RenderProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Assembled:
    """`records` and `prompts` by half (`train`, `eval`), in the same order.

    `unsplit` is every record that has a preference group, those without a prompt too. `rejected` holds
    everything that was left out. `own_split`: the source brought the halves. `conditioning`: what the model
    is told in the prompts besides the rows' own messages, which alone are in the records.
    """

    records: dict[str, tuple[PromptRecord, ...]]
    prompts: dict[str, list[PreparedPrompt]]
    unsplit: tuple[PromptRecord, ...]
    rejected: tuple[RejectedRow, ...]
    fitted: Fitted
    own_split: bool = False
    conditioning: Applied | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the conditioning."""
        return () if self.conditioning is None else self.conditioning.notes

    @property
    def profiles(self) -> Mapping[str, str] | None:
        """The description of each preference group, where the prompts have such."""
        return None if self.conditioning is None else self.conditioning.profiles


def assemble(
    source: SourceData,
    assigner: Assigner,
    renderer: PromptRenderer,
    section: DataSection,
    seed: int,
    progress: RenderProgress,
) -> Assembled:
    """Group, render, split, and say who asks. What is fitted to the training half is split first, as one
    preference group. What is added to prompts may come from the training half, so they are rendered again.

    Raises DataError as the assigner and the split do.
    """
    source = with_unique_ids(source)
    records = (*source.train, *(source.eval or ()))
    if assigner.after_split:
        grouped = tuple(replace(record, preference_group=None) for record in records)
        ungrouped: tuple[RejectedRow, ...] = ()
    else:
        fitted = assigner.fit(records)
        grouped, ungrouped = assign(records, fitted.group_of)
    prompts, too_long = _render(grouped, renderer, progress)
    halves = _halves(source, grouped, prompts, section, seed)
    if assigner.after_split:
        originals = {record.prompt_id: record for record in records}
        train, held_out = (
            [originals[record.prompt_id] for record in half] for half in (halves.train, halves.eval)
        )
        fitted = assigner.fit(train, held_out) if train else Fitted(lambda record: record.assigned)
        kept, lost = assign(train, fitted.group_of)
        kept_out, lost_out = assign(held_out, fitted.group_of)
        halves, ungrouped = Split(kept, kept_out, halves.dropped), (*lost, *lost_out)
        grouped = (*kept, *kept_out)
    by_half = {"train": halves.train, "eval": halves.eval}
    applied = apply(section, renderer.system_prompt, by_half, fitted.findings, seed)
    if applied is not None:
        members = [record for half in applied.halves.values() for record in half]
        prompts, longer = _render(members, renderer, progress)
        too_long += [*applied.rejected, *longer]
        by_half = {
            half: tuple(record for record in of_half if record.prompt_id in prompts)
            for half, of_half in by_half.items()
        }
    return Assembled(
        by_half,
        {half: [_prompt(record, prompts) for record in members] for half, members in by_half.items()},
        grouped,
        (*source.rejected, *ungrouped, *too_long, *halves.dropped),
        fitted,
        source.eval is not None,
        applied,
    )


def with_unique_ids(source: SourceData) -> SourceData:
    """Equal rows have equal ids; from the second on they are numbered."""
    seen: Counter[str] = Counter()

    def numbered(record: PromptRecord) -> PromptRecord:
        seen[record.prompt_id] += 1
        count = seen[record.prompt_id]
        return record if count == 1 else replace(record, prompt_id=f"{record.prompt_id}-{count}")

    held_out = None if source.eval is None else tuple(map(numbered, source.eval))
    return replace(source, train=tuple(map(numbered, source.train)), eval=held_out)


def _render(
    records: Sequence[PromptRecord], renderer: PromptRenderer, progress: RenderProgress
) -> tuple[dict[str, PreparedPrompt], list[RejectedRow]]:
    prompts: dict[str, PreparedPrompt] = {}
    rejected = []
    for done, result in enumerate(renderer(records), start=1):
        if isinstance(result, RejectedRow):
            rejected.append(result)
        else:
            prompts[result.prompt_id] = result
        progress(done, len(records))
    return prompts, rejected


def _halves(
    source: SourceData,
    grouped: Sequence[PromptRecord],
    prompts: dict[str, PreparedPrompt],
    section: DataSection,
    seed: int,
) -> Split:
    """The halves of what has a prompt: the source's own, or as the recipe says."""
    usable = [record for record in grouped if record.prompt_id in prompts]
    if source.eval is None:
        return split(usable, section.split_by, section.eval_fraction, seed)
    held_out = {record.prompt_id for record in source.eval}
    return keep_apart(
        [record for record in usable if record.prompt_id not in held_out],
        [record for record in usable if record.prompt_id in held_out],
    )


def _prompt(record: PromptRecord, prompts: dict[str, PreparedPrompt]) -> PreparedPrompt:
    return replace(prompts[record.prompt_id], preference_group=record.assigned)
