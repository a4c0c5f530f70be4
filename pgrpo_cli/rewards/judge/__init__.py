"""Language models that judge completions over HTTP: one by one as a reward, or in pairs for an evaluation."""
