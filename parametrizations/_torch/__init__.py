"""Access to PyTorch internals."""
