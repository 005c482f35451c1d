"""Where probes and servers run."""
