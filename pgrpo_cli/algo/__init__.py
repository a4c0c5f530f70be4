"""The algorithm: reward histories, advantages, losses. The formulas are in docs/algorithm.md.

Tensors and numbers in, tensors and numbers out; needs torch only, and `estimators` not even that.
"""
