"""CAT-Seg: cost aggregation for open-vocabulary semantic segmentation (CVPR 2024)."""
