"""The cost of the constraints, compared with plain PyTorch: ``python -m benchmarks``."""
