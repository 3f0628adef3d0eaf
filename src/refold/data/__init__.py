"""Ragged sequences, windows, scales and the bundled series."""
