"""Random use of the library, checked after each operation against dense formulas that know nothing of it."""
