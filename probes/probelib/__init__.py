"""What probes share; runs inside images, so it needs nothing but the image's Python and, where it says so, torch."""
