"""Adds the top-level `data/` and `configs/` to the wheel, in the package; see pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

ROOMS = ("data", "configs")


def packages_of(room: str) -> list[str]:
    below = find_namespace_packages(room)
    return [f"opvseg_jax.{room}", *(f"opvseg_jax.{room}.{name}" for name in below)]


setup(
    packages=find_packages(include=["opvseg_jax", "opvseg_jax.*"])
    + [name for room in ROOMS for name in packages_of(room)],
    package_dir={f"opvseg_jax.{room}": room for room in ROOMS},
)
