"""Loading pretrained models for the policy, rewards and sentence embeddings, all with the same checks."""
