"""Whole experiments, run through the real command lines: one folder each, the same stages."""
