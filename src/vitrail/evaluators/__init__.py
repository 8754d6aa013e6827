"""Pure mathematics on arrays (numpy alone): how good predictions are, and what they have to beat."""
