"""What was measured and what may be said of it: records, claims, statements, policy."""
