"""Benchmarks as they are downloaded -> TFDS folders (array_record) that the pipeline reads.

`registry.py` lists them; each file beside it that is named after a data set holds its layouts.
"""
