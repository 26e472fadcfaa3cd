"""How fast the constraints are, beside other ways to have them: ``python -m benchmarks``."""
