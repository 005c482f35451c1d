"""Serving engines: everything that is specific to one of them. `table` finds an engine by its name."""
