"""Training-free two-stage segmentation with CLIP alone (or CLIP and DINO)."""
