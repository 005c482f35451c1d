"""assay builds GPU serving images across a matrix of versions and proves what works in them."""

__all__ = ["__version__"]

__version__ = "0.1.0"
