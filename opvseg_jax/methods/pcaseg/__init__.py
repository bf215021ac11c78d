"""PCA-Seg: parallel cost aggregation, a descendant of CAT-Seg."""
