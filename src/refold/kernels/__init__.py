"""Backends: each takes a plan and sizes, and runs whole sequences."""
