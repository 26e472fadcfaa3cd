"""How to multiply with a constrained weight, and which way to choose."""
