"""A photo and words in, a `Segmentation` out."""
