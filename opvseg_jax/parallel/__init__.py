"""Devices and processes: which mesh they form, what lies where on it, how processes start."""
