"""Pure mathematics on a model: what its filters, positions and attention look like, as arrays to draw or to count."""
