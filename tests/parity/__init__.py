"""Numbers of the published implementations, reproduced.

`OPVSEG_GOLDEN=<folder> pytest tests/parity` runs every case in `<folder>/<method>/`. A method adds
one file here: programs under `@register(method, kind)`, and its kinds in `harness.CLAIMED`.
"""
