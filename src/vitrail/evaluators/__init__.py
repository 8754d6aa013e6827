"""Pure mathematics on arrays (numpy): how good predictions are, and what they have to beat."""
