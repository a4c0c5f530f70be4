"""Readers of public preference sets, whose columns are known."""

from __future__ import annotations

from .helpsteer2 import read_helpsteer2
from .personalllm import read_personalllm
from .prism import read_prism
from .ultrafeedback import read_ultrafeedback

__all__ = ["read_helpsteer2", "read_personalllm", "read_prism", "read_ultrafeedback"]
