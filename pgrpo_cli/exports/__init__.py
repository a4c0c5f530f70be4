"""A trained model in the files that other programs load, each compared with the run before it is done."""
