"""The verbs: each module tells the story of one, and has the function that does all of it.

They are not modules of `pgrpo_cli` itself, whose `train` is the function.
"""
