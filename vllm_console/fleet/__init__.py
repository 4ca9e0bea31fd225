"""What is wanted: fleet.toml becomes a Fleet."""
