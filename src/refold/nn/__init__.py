"""Layers, wiring and initialisers: the torch.nn.Modules."""
