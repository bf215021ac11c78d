"""Where samples come from: photos, data sets, the built-in PartWorld."""
