"""A small artificial language: the whole path from text to report in minutes on a laptop."""
