"""What the recipes share: configuration, the runner, the seven stages."""
