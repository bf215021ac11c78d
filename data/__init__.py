"""Data set builders, vocabularies and their documentation; installed as `opvseg_jax.data`."""
