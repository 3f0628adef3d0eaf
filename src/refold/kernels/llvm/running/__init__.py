"""Compiled programs over whole batches: memory, threads, gradients, and what torch sees of them."""
