"""Published weight files in, our leaves out (and back), without running code from the file."""
