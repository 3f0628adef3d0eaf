"""Checkpoints: one file that holds tensors and a document, and the folder of a run."""
