"""Speech recognition: AN4, spoken digits or tones."""
