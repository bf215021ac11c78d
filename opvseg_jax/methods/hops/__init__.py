"""HOPS: objects first, then the parts of each, both steered by what attention agrees on."""
