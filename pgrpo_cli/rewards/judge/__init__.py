"""Language models that judge completions over HTTP, each alone as a reward, or pairs for eval/judge.py."""
