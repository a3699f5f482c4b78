"""What a run leaves: its folder, metrics, tables and plots."""
