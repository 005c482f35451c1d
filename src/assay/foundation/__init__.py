"""Values and small tools that every room uses; imports nothing but errors."""
