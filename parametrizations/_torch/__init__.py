"""What PyTorch leaves to us."""
