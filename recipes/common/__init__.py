"""What the recipes share: configuration, the runner, the eight stages."""
