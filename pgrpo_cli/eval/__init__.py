"""An evaluation: what of a run is evaluated, held-out completions, a judge of pairs, and lm-eval's tasks."""
