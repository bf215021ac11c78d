"""Floor 1: shapes, layers, attention, images, weights, precision. Knows nothing of any model."""
