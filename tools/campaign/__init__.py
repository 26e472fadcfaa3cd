"""Random use of the library, checked after each operation against independent dense formulas."""
