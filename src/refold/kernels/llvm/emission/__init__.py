"""Passes, packing and weight gradients written down as LLVM IR."""
