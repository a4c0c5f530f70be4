"""pgrpo: fine-tune one chat model for many tastes with P-GRPO (arXiv 2603.10009)."""

__version__ = "0.1.0"
