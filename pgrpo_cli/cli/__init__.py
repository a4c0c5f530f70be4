"""The command line: the only layer that prints or exits. torch is imported inside commands, never here."""
