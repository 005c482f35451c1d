"""What wheels and images say without being run: readers of their bytes, and the rules over what was read. Pure."""
