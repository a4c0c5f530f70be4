"""`plan`: what a run will hold in memory, before anything is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from .common import JsonOption, RecipeArgument, RunDirOption, SetOption
from .terminal import emit, note, say, show_table

if TYPE_CHECKING:
    from pgrpo_cli.model.memory.plan import Device, MemoryPlan
    from pgrpo_cli.model.memory.remedies import Remedy
    from pgrpo_cli.recipe.schema import Recipe
    from pgrpo_cli.state.run import RunDirectory

_SHOWN_GIB = 0.005
"""Parts that are smaller in every phase would be a row of zeros."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(plan)


def plan(
    recipe: RecipeArgument,
    run_dir: RunDirOption = None,
    overrides: SetOption = None,
    device: Annotated[
        Literal["cuda", "cpu"] | None,
        typer.Option(help="Plan for a GPU or a CPU. Default: what a run would use here.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run will hold in memory, which GPUs it fits, and what to change. Nothing is loaded."""
    from pgrpo_cli.model.memory.plan import CARDS_GIB, GIB
    from pgrpo_cli.model.memory.planner import Planner
    from pgrpo_cli.model.memory.remedies import remedies
    from pgrpo_cli.recipe.load import load_recipe
    from pgrpo_cli.state.paths import as_begun
    from pgrpo_cli.state.run import run_if_any
    from pgrpo_cli.verbs.source import default_run_dir

    loaded = load_recipe(recipe, overrides or (), note)
    run = run_if_any(run_dir or default_run_dir(loaded))
    if run is not None:
        loaded = as_begun(run, loaded)
    device, here = _device_and_memory(device, loaded)
    longest = _longest_prompt(run, loaded) if run else None
    paths = _measured_paths(run, device) if run else None
    planner = Planner(recipe.parent, longest_prompt=longest, paths=paths)
    on_cards = {gib: planner.plan(loaded, "cuda", gib * GIB) for gib in CARDS_GIB}
    if device == "cpu":
        planned, room = planner.plan(loaded, "cpu"), 0
    else:
        # Without a GPU the plan is that for the smallest one that holds it.
        gib = here or next((gib for gib in CARDS_GIB if on_cards[gib].fits(gib)), CARDS_GIB[0])
        room = round(gib * GIB)
        planned = planner.plan(loaded, "cuda", room)
    enough = planned.fits(CARDS_GIB[0] if here is None else here)
    found = [] if enough else remedies(planner, loaded, planned, room)
    if as_json:
        emit(json.dumps(_as_json(planned, on_cards, found, longest, here), indent=2))
        return
    show_table(_table(loaded.name, planned))
    for line in _sentences(loaded, planned, on_cards, found, longest, here):
        say(line)


def _device_and_memory(wish: Device | None, recipe: Recipe) -> tuple[Device, float | None]:
    """What the plan is for (by default the device of a run), and the GiB that this machine has of it.

    The memory is that of the GPU that a run would take; None if there is no GPU here. Raises ModelError for a
    device that a run could not take.
    """
    import torch

    from pgrpo_cli.model.load.precision import device_for
    from pgrpo_cli.pretrained.device import choose_device

    if wish == "cuda" and not torch.cuda.is_available():
        return "cuda", None
    if wish == "cuda":
        named = recipe.model.device
        chosen = choose_device(named if named.startswith("cuda") else "cuda")
    else:
        chosen = torch.device("cpu") if wish == "cpu" else device_for(recipe)
    if chosen.type == "cpu":
        return "cpu", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return "cuda", torch.cuda.get_device_properties(chosen).total_memory / 2**30


def _longest_prompt(run: RunDirectory, recipe: Recipe) -> int | None:
    """Tokens of the longest prompt if the run holds prepared data of this recipe."""
    from pgrpo_cli.data.prepared import load_prepared, read_manifest

    manifest = read_manifest(run.path)
    if manifest is None or manifest.get("data") != recipe.data.model_dump(mode="json"):
        return None
    model = recipe.model.model_dump(mode="json")
    found = manifest.get("model")
    if not isinstance(found, dict) or any(
        found.get(key) != model[key]
        for key in ("id", "chat_template", "chat_template_kwargs", "system_prompt")
    ):
        return None
    return max((len(prompt.input_ids) for prompt in load_prepared(run.path, "train")), default=None)


def _measured_paths(run: RunDirectory, device: Device) -> Any:
    """How the run computes, if it has begun on such a device."""
    from pgrpo_cli.model.policy import Paths
    from pgrpo_cli.state.paths import read_paths

    return Paths.from_record(read_paths(run, device))


def _table(name: str, plan: MemoryPlan) -> Table:
    """Parts by phase, each phase at its own peak, in GiB."""
    from pgrpo_cli.model.memory.plan import ORDER, OVERHEADS

    where = "a GPU" if plan.device == "cuda" else "a CPU"
    table = Table(title=f"{name} on {where}, in GiB", title_justify="left", box=None, pad_edge=False)
    table.add_column("part")
    for phase in plan.phases:
        table.add_column(phase.name, justify="right")
    for part in ORDER:
        sizes = [phase.parts[part] for phase in plan.phases]
        if max(sizes) >= _SHOWN_GIB * 2**30:
            table.add_row(part, *(_gib(size) if size else "-" for size in sizes))
    totals = [phase.total for phase in plan.phases]
    whole = [OVERHEADS[plan.device].with_tensors(total) for total in totals]
    rest = "context, allocator's gaps" if plan.device == "cuda" else "libraries, heap's gaps"
    table.add_row(rest, *(_gib(all_ - total) for all_, total in zip(whole, totals, strict=True)))
    table.add_row("in all", *map(_gib, whole), style="bold")
    return table


def _sentences(
    recipe: Recipe,
    plan: MemoryPlan,
    on_cards: Mapping[int, MemoryPlan],
    found: Sequence[Remedy],
    longest: int | None,
    here: float | None,
) -> list[str]:
    batch, micro_batch = plan.batch, plan.micro_batch
    lines = [
        f"{plan.parameters.total() / 1e6:,.1f} M parameters, "
        f"{plan.adapter_parameters / 1e6:,.1f} M in the adapter.",
        f"Largest rollout batch: {batch.count} prompts of {batch.prompt_tokens} tokens, "
        f"{batch.generations} completions of {batch.completion_tokens} each. "
        f"Largest micro-batch: {micro_batch.count} rows of {micro_batch.row_tokens} tokens.",
        f"Budgets: {plan.tokens_per_batch} tokens per rollout batch{_left(recipe.rollout.tokens_per_batch)}, "
        f"{plan.tokens_per_micro_batch} a micro-batch{_left(recipe.train.tokens_per_micro_batch)}.",
    ]
    if plan.unquantized:
        lines.append(f"Warning: {plan.unquantized}.")
    if longest is None:
        lines.append(
            f"Prompts count as data.max_prompt_tokens ({recipe.data.max_prompt_tokens}) long; "
            "after `pgrpo prepare` as long as they are."
        )
    lines += ["", f"Peak: {_gib(plan.peak)} GiB."]
    lines += [_on_card(on_card, gib) for gib, on_card in on_cards.items()]
    if here is not None:
        fits = "fits" if plan.fits(here) else "does not fit"
        lines.append(f"This machine's {'GPU' if plan.device == 'cuda' else 'memory'}, {here:.0f} GB: {fits}")
    if found:
        lines += ["", "To take less:"]
        lines += [_as_line(remedy) for remedy in found]
    return lines


def _left(tokens: int | str) -> str:
    return " (chosen for this memory)" if tokens == "auto" else ""


def _on_card(plan: MemoryPlan, gib: int) -> str:
    if not plan.fits(gib):
        return f"{gib} GB GPU: does not fit"
    return f"{gib} GB GPU: fits, {_gib(plan.peak_on(gib << 30))} GiB in use"


def _as_line(remedy: Remedy) -> str:
    import shlex

    options = " ".join(f"--set {shlex.quote(change)}" for change in remedy.changes)
    plan, smallest = remedy.plan, remedy.plan.smallest_card
    card = "" if plan.device == "cpu" else f", fits {smallest} GB" if smallest else ", fits none of them"
    return f"  {options}: {_gib(plan.peak)} GiB{card}"


def _as_json(
    plan: MemoryPlan,
    on_cards: Mapping[int, MemoryPlan],
    found: Sequence[Remedy],
    longest: int | None,
    here: float | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "device": plan.device,
        "peak_bytes": plan.peak,
        "tensors_bytes": plan.tensors,
        "parameters": {**plan.parameters, "adapter": plan.adapter_parameters},
        "phases": {phase.name: {"parts": phase.parts, "total_bytes": phase.total} for phase in plan.phases},
        "longest_prompt": longest,
        "batch": asdict(plan.batch),
        "micro_batch": asdict(plan.micro_batch),
        "budgets": _budgets(plan),
        "cards": [
            {
                "gib": gib,
                "fits": on_card.fits(gib),
                "tensors_bytes": on_card.tensors_on(gib << 30),
                **_budgets(on_card),
            }
            for gib, on_card in on_cards.items()
        ],
        "here": None if here is None else {"gib": here, **_here(plan, here)},
        "remedies": [{"set": remedy.changes, "peak_bytes": remedy.plan.peak} for remedy in found],
    }


def _budgets(plan: MemoryPlan) -> dict[str, int | None]:
    return {
        "tokens_per_batch": plan.tokens_per_batch,
        "tokens_per_micro_batch": plan.tokens_per_micro_batch,
    }


def _here(plan: MemoryPlan, gib: float) -> dict[str, Any]:
    tensors = plan.tensors_on(round(gib * 2**30)) if plan.device == "cuda" else plan.tensors
    return {"fits": plan.fits(gib), "tensors_bytes": tensors}


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"
