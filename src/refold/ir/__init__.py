"""The language: a Python function becomes a graph. Pure Python; needs neither torch nor NumPy."""
