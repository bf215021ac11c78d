"""Presets, downloads and the folders that models are loaded from."""
