"""What compiled code stands on: the processor, LLVM, the cache of machine code on disk, torch's own threads."""
