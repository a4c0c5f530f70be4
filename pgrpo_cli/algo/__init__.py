"""The algorithm: reward histories, advantages, losses. The formulas are in docs/algorithm.md.

It takes and returns tensors and numbers only. It needs torch and nothing else; `estimators` does not need
torch.
"""
