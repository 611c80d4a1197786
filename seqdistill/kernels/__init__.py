"""The losses of this project fused with the projections, in one pass over the vocabulary."""
