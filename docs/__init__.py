"""The manual: what Sphinx needs to build it, and ``python -m docs``."""
