"""The verbs: each module has the function that does all of one verb.

They are not modules of `pgrpo_cli` itself, whose `train` is the function.
"""
