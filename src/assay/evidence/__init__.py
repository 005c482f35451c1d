"""Evidence: records, claims, statements, policy."""
