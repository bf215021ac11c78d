"""Image and text encoders. They know nothing of segmentation."""
