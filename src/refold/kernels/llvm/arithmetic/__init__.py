"""Elementwise functions as LLVM instructions, on vectors of any width."""
