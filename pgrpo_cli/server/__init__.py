"""The model of a run over HTTP: OpenAI's interface for other programs, and one page for people."""
