"""One bench for every method: ``python -m benchmarks.methods``."""
