"""The matrix: models, loading, selection, planning, locks, rendering."""
