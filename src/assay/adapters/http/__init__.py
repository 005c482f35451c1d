"""HTTP with deadlines."""
