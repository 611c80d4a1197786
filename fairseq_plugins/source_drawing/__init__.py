"""Source sentences drawn from a language model, for an ensemble to translate."""
