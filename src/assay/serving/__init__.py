"""Serving: profiles, flags per engine and release, what a server chose, load and figures, launch and memory plans."""
