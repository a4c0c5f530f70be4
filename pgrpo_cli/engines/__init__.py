"""What makes a step. pgrpo's own engine is pgrpo_cli/training.py; `trl` is TRL's GRPOTrainer."""
