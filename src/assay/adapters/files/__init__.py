"""Adapters that store data in files."""
