"""What numbers say: intervals, comparisons, learning curves. Plain data in and out: no files, no torch."""
