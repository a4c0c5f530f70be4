"""P-GRPO on TRL and Accelerate, for more than one GPU. docs/beyond-one-gpu.md shows how it is used.

`PGRPOTrainer` takes the place of GRPOTrainer in a script of your own. `pgrpo train` with `engine.type: trl`
uses it, too.
"""

from .trainer import PGRPOTrainer

__all__ = ["PGRPOTrainer"]
