"""Layers from wheels: downloads, bytecode, bases, and the store of what was made."""
