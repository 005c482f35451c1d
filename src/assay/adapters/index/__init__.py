"""Package indexes and wheels."""
