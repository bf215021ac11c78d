"""Cost aggregation: patches and classes refine how well they fit each other. Arrays in and out."""
