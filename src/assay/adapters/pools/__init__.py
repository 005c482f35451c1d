"""Pools of machines: one module for each kind of engine, and what they share."""
