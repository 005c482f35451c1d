"""Serving: profiles, flags per engine and version, what a server chose, load and its figures, launch and memory plans."""
