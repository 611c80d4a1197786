"""Hidden states of teachers over a corpus, stored."""
