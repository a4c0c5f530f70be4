"""The policy: a base model (quantized or not) under one LoRA adapter, its rollouts and its
log-probabilities.
"""
