"""From objects to parts: crop, batch and paste regions. Arrays in, arrays out."""
