"""How the model is told who asks: what `data.conditioning` adds to prompts, and whether it suffices."""
