"""Talking to the model of a run, and asking a person which of two answers is better."""
