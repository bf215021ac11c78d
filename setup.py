"""Adds the top-level `data/` folder to the wheel as `opvseg_jax.data`; see also pyproject.toml."""

from setuptools import find_namespace_packages, find_packages, setup

data = ["opvseg_jax.data"] + [f"opvseg_jax.data.{name}" for name in find_namespace_packages("data")]
setup(
    packages=find_packages(include=["opvseg_jax", "opvseg_jax.*"]) + data,
    package_dir={"opvseg_jax.data": "data"},
)
