"""A reward that is learnt from picks: which of two answers a person liked better."""
