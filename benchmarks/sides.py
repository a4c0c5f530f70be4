"""One side of the step benchmark in a process of its own: `python benchmarks/sides.py SETTINGS`.

SETTINGS is JSON; the last line printed is JSON too: seconds of each step, the warm-up first, and peak memory.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if TYPE_CHECKING:
    from benchmarks.shapes import Shape

LORA = {"r": 16, "alpha": 32}


@dataclass(frozen=True)
class Settings:
    """What a side is asked to do; `steps` are timed after one that is not."""

    side: str
    shape: str
    beta: float
    steps: int
    without: str | None = None
    """A technique of `techniques.TECHNIQUES` that our side does without."""
    learning_rate: float = 1e-5
    dtype: str | None = None
    """The dtype to compute in, in place of the shape's own."""

    def sized(self) -> Shape:
        """The shape, in the dtype that is asked for."""
        from benchmarks.shapes import SHAPES

        shape = SHAPES[self.shape]
        return replace(shape, dtype=self.dtype or shape.dtype)

    @property
    def all_steps(self) -> int:
        return self.steps + 1


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    if settings.without:
        from benchmarks.techniques import TECHNIQUES

        TECHNIQUES[settings.without]()
    if settings.side == "ours":
        from pgrpo_cli.cli.libraries import prepare_libraries

        prepare_libraries()
    run = {"ours": run_ours, "trl": run_trl}[settings.side]
    seconds, peak = run(settings)
    phases = seconds if isinstance(seconds, dict) else {"total": seconds}
    sys.stdout.write("\n" + json.dumps({"seconds": phases, "peak_mb": peak}) + "\n")


@dataclass(frozen=True)
class OurStep:
    """What our side of a shape needs to make steps."""

    shape: Any
    recipe: Any
    policy: Any
    batches: list[list[Any]]
    """Prompts of each step."""


def our_step(settings: Settings) -> OurStep:
    """Load the model of a shape and make its prompts; completions never stop by themselves."""
    from benchmarks.shapes import load_base, load_tokenizer, make_prompts
    from pgrpo_cli.data.records import PreparedPrompt
    from pgrpo_cli.model.load.from_recipe import adapted
    from pgrpo_cli.model.policy import Policy
    from pgrpo_cli.recipe.schema import Recipe

    class NeverStopping(Policy):
        """Completions of forced length, as TRL's `min_new_tokens` makes them."""

        stop_token_ids = ()

    shape = settings.sized()
    device = _device()
    tokenizer = load_tokenizer()
    texts = make_prompts(shape, tokenizer, shape.num_prompts * settings.all_steps)
    prompts = [
        PreparedPrompt(str(i), "users", text, tuple(tokenizer(text)["input_ids"]), {})
        for i, text in enumerate(texts)
    ]
    row = max(len(p.input_ids) for p in prompts) + shape.num_generations * shape.completion_tokens
    rows = max(1, (shape.completions_per_micro_batch or shape.num_completions) // shape.num_generations)
    recipe = Recipe.model_validate(
        {
            "name": "benchmark",
            "model": {"id": "random", "compute_dtype": shape.dtype},
            "data": {"source": {"type": "personas"}},
            "rewards": [{"type": "personas"}],
            "rollout": {
                "num_generations": shape.num_generations,
                "max_completion_tokens": shape.completion_tokens,
                "tokens_per_batch": 1 << 20,
            },
            "loss": {"beta": settings.beta},
            "adapter": LORA,
            "train": {
                "steps": settings.all_steps,
                "learning_rate": settings.learning_rate,
                "schedule": "constant",
                "tokens_per_micro_batch": row * rows,
                "gradient_checkpointing": shape.gradient_checkpointing,
            },
        }
    )
    policy = adapted(load_base(shape, device), tokenizer, recipe, device)
    policy = NeverStopping(**{name: getattr(policy, name) for name in Policy.__dataclass_fields__})
    if shape.gradient_checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    P = shape.num_prompts
    return OurStep(shape, recipe, policy, [prompts[i : i + P] for i in range(0, len(prompts), P)])


def run_ours(settings: Settings) -> tuple[dict[str, list[float]], float]:
    """Steps as `pgrpo train` makes them, records on disk left out; seconds by phase."""
    from pgrpo_cli.histories import RewardHistories
    from pgrpo_cli.model.rollout.sample import sample
    from pgrpo_cli.model.rollout.sampling import sampling_settings
    from pgrpo_cli.model.update.optimizer import build_optimizer
    from pgrpo_cli.model.update.policy_update import policy_update
    from pgrpo_cli.rewards.base import TextReward
    from pgrpo_cli.rewards.reward_sum import RewardSum, Term
    from pgrpo_cli.rewards.scoring import Scorer

    ours = our_step(settings)
    policy, recipe = ours.policy, ours.recipe
    scorer = Scorer(RewardSum((Term("length", 1.0, None, TextReward(_reward)),)))
    histories = RewardHistories(recipe.advantage, recipe.history)
    optimizer = build_optimizer(policy, recipe.train)
    phases: dict[str, list[float]] = {"rollout": [], "update": [], "total": []}
    peak = _PeakMemory(policy.device)
    for step, batch in enumerate(ours.batches, start=1):
        clock: list[float] = []
        finish(policy.device, clock)
        rollouts = sample(policy, batch, sampling_settings(recipe.rollout), seed=step)
        finish(policy.device, clock)
        assert set(rollouts.lengths_N) == {ours.shape.completion_tokens}
        scores_N = scorer.start().scores(rollouts.completions())
        advantages = histories.advantages(
            scores_N, rollouts.preference_groups_N, num_generations=rollouts.num_generations, step=step
        )
        policy_update(policy, optimizer, rollouts, advantages, recipe, step=step)
        finish(policy.device, clock)
        phases["rollout"].append(clock[1] - clock[0])
        phases["update"].append(clock[2] - clock[1])
        phases["total"].append(clock[2] - clock[0])
    return phases, peak.megabytes()


def run_trl(settings: Settings) -> tuple[list[float], float]:
    """The same steps by TRL's GRPOTrainer with its transformers backend."""
    import tempfile

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from benchmarks.shapes import load_base, load_tokenizer, make_prompts

    shape = settings.sized()
    device = _device()
    tokenizer = load_tokenizer()
    texts = make_prompts(shape, tokenizer, shape.num_prompts * settings.all_steps)
    model = load_base(shape, device)
    if shape.nf4 and device.type == "cpu":
        from pgrpo_cli.model.nf4 import keep_differentiable

        keep_differentiable(model)
    seconds: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.started)

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        assert {len(ids) for ids in completion_ids} == {shape.completion_tokens}
        return [_reward(text) for text in completions]

    per_batch = shape.completions_per_micro_batch or shape.num_completions
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            use_cpu=device.type == "cpu",
            per_device_train_batch_size=per_batch,
            gradient_accumulation_steps=shape.num_completions // per_batch,
            steps_per_generation=shape.num_completions // per_batch,
            num_generations=shape.num_generations,
            max_completion_length=shape.completion_tokens,
            generation_kwargs={"min_new_tokens": shape.completion_tokens},
            beta=settings.beta,
            loss_type="grpo",
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            max_steps=settings.all_steps,
            shuffle_dataset=False,
            gradient_checkpointing=shape.gradient_checkpointing,
            bf16=shape.dtype == "bfloat16",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM",
                r=LORA["r"],
                lora_alpha=LORA["alpha"],
                lora_dropout=0.0,
                target_modules="all-linear",
            ),
            callbacks=[Stopwatch()],
        )
        peak = _PeakMemory(device)
        trainer.train()
    assert len(seconds) == settings.all_steps, seconds
    return seconds, peak.megabytes()


def _reward(text: str) -> float:
    return sum(map(ord, text)) % 97 / 97


def _device() -> Any:
    from pgrpo_cli.pretrained.device import choose_device

    return choose_device()


def finish(device: Any, clock: list[float]) -> None:
    """Wait for the device and note the time."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize()
    clock.append(time.perf_counter())


class _PeakMemory:
    """Peak from here on: allocated on the GPU, or resident in this process."""

    def __init__(self, device: Any) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            # Linux: forgets the peak so far, which loading the weights has set.
            Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> float:
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
