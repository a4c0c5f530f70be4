"""What `pgrpo plan` says beside what a run takes: peak memory of short runs, each in a process of its own.

    python benchmarks/plan.py --json plan.json
    python benchmarks/plan.py --cases quickstart beta --steps 2

A case is recipes/quickstart.yaml with some settings. Its data are prepared first, in another process; then a
process trains some steps, as `pgrpo train` does, and tells its peak: resident memory on a CPU (the greatest
that the kernel has seen), allocated memory on a GPU. Ratios are of the plan to the measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rich.console import Console
from rich.table import Table

from benchmarks.processes import FAILED, keep, measured_by, output_of

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "recipes" / "quickstart.yaml"
LONG_PROMPTS = "long prompts"

CASES: dict[str, list[str]] = {
    "quickstart": [],
    "float32": ["model.quantization={type: none}", "model.compute_dtype=float32"],
    "bfloat16": ["model.quantization={type: none}"],
    "beta": ["loss.beta=0.1"],
    "checkpointing": ["train.gradient_checkpointing=true"],
    LONG_PROMPTS: ["data.max_prompt_tokens=700", "rewards.0={type: length, max: 100}"],
    "micro-batches of 2048": ["train.tokens_per_micro_batch=2048"],
    "micro-batches of 4096": ["train.tokens_per_micro_batch=4096"],
}
USUAL = ["train.prompts_per_step=8", "train.save_every=1000", "rollout.max_completion_tokens=20"]

TRAIN = """
import json, resource, sys
import torch
from pgrpo_cli.cli.app import app
app(sys.argv[1:], standalone_mode=False)
peak = {"resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
if torch.cuda.is_available():
    peak = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
print(json.dumps(peak))
"""
PGRPO = "import sys; from pgrpo_cli.cli.app import app; app(sys.argv[1:])"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--steps", type=int, default=3, help="steps of each run (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    arguments = parser.parse_args()

    console = Console()
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.cases:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(name, Path(folder), arguments.steps)
        console.print(f"{name}: {json.dumps(results[name])}", soft_wrap=True)
        keep(arguments.json, {"steps": arguments.steps, "cases": results})
    console.print(as_table(results))


def measure(name: str, folder: Path, steps: int) -> dict[str, Any]:
    """Planned and measured peak in MiB, and the plan over the measurement; or `{"failed": why}`."""
    settings = [*USUAL, *CASES[name], f"train.steps={steps}"]
    if name == LONG_PROMPTS:
        settings.append(f"data.source={{type: jsonl, path: {write_long_prompts(folder)}}}")
    sets = [word for setting in settings for word in ("--set", setting)]
    common = [str(RECIPE), "--run-dir", str(folder / "run"), *sets]
    _, failed = output_of(program(PGRPO, "prepare", *common, "--quiet"), cwd=ROOT)
    if failed:
        return {FAILED: f"prepare: {failed}"}
    planned_as, failed = output_of(program(PGRPO, "plan", *common, "--json"), cwd=ROOT)
    if failed:
        return {FAILED: f"plan: {failed}"}
    plan = json.loads(planned_as)
    peak = measured_by(program(TRAIN, "train", *common, "--quiet"), cwd=ROOT)
    if FAILED in peak:
        return {FAILED: f"train: {peak[FAILED]}", "planned_mib": plan["peak_bytes"] >> 20}
    on_gpu = "allocated" in peak
    measured = peak["allocated" if on_gpu else "resident"]
    planned = plan["here"]["tensors_bytes"] if on_gpu else plan["peak_bytes"]
    return {
        "planned_mib": planned >> 20,
        "measured_mib": measured >> 20,
        "ratio": round(planned / measured, 3),
        "tensors_mib": plan["tensors_bytes"] >> 20,
        "phases_mib": {phase: found["total_bytes"] >> 20 for phase, found in plan["phases"].items()},
    }


def program(source: str, *arguments: str) -> list[str]:
    """The command that runs Python source with arguments."""
    return [sys.executable, "-c", source, *arguments]


def write_long_prompts(folder: Path) -> Path:
    """Prompts of about 600 tokens in two preference groups."""
    path = folder / "long.jsonl"
    words = [
        "listener",
        "played",
        "jazz",
        "metal",
        "reggae",
        "liked",
        "skipped",
        "asked",
        "album",
        "song",
        "short",
    ]
    with path.open("w") as file:
        for i in range(64):
            text = " ".join(words[(i * 5 + j * (i + 3)) % len(words)] for j in range(450 - i % 50))
            file.write(json.dumps({"prompt": text, "preference_group": "ab"[i % 2]}) + "\n")
    return path


def as_table(results: dict[str, dict[str, Any]]) -> Table:
    """One line a case."""
    table = Table("case", box=None)
    for heading in ("planned MiB", "measured MiB", "planned / measured"):
        table.add_column(heading, justify="right")
    for name, found in results.items():
        if FAILED in found:
            table.add_row(name, str(found.get("planned_mib", "-")), FAILED)
            continue
        table.add_row(name, str(found["planned_mib"]), str(found["measured_mib"]), f"{found['ratio']:.2f}")
    return table


if __name__ == "__main__":
    main()
