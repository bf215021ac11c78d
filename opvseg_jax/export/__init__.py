"""A segmenter as compiled functions beside their weights, for programs without this package."""
