"""Products with constrained weights, and the choice between them."""
