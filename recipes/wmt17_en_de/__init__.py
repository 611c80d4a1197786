"""WMT17 English→German at full size: 40,000 pieces, transformer-big, the paper's experiment."""
