"""`pgrpo selfcheck`: does this machine compute what a run needs, how fast, and in how much memory."""
