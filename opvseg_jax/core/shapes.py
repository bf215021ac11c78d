"""Shape checks by axis letters. They run while tracing and cost nothing afterwards."""


def dims(x, spec: str, **known: int) -> tuple[int, ...]:
    """Returns `x.shape` after checking its rank and the sizes that are known.

    `dims(cost, "B T N C", C=64)` raises a ValueError unless `cost` has four axes, the last of 64.
    """
    names = spec.split()
    same_rank = len(names) == x.ndim
    if not same_rank or any(known.get(n, s) != s for n, s in zip(names, x.shape, strict=True)):
        want = ", ".join(f"{n}={known[n]}" if n in known else n for n in names)
        raise ValueError(f"expected [{want}], got {list(x.shape)}")
    return x.shape
