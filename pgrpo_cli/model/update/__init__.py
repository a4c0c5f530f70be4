"""Log-probabilities, gradients and the update of the adapter."""
