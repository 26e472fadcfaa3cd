"""Functions that act on whole models, and their helpers."""
