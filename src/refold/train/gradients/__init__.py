"""Gradients to be looked into: of everything, step by step, and against the lag."""
