"""Speech recognition at full size: LibriSpeech, 960 hours."""
