"""Intervals, comparisons, fairness and learning curves, computed from plain data: no files, no torch."""
