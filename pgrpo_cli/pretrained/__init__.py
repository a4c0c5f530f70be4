"""Models that others trained, for the policy, rewards and sentence embeddings: one rule for all of them."""
