"""The tour, ``python -m parametrizations``: four constraints on a trained classifier of real digits."""
