"""The tour behind ``python -m parametrizations``."""
