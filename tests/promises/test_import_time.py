"""`import opvseg_jax` costs nothing; JAX is paid for by those who compute."""

import subprocess
import sys

CODE = """
import sys, time
began = time.perf_counter()
import opvseg_jax
seconds = time.perf_counter() - began
heavy = [name for name in ("jax", "flax", "numpy", "PIL", "optax") if name in sys.modules]
print(seconds, *heavy)
"""
PUBLIC = "import opvseg_jax as ov; [getattr(ov, name) for name in ov.__all__]"
UNWANTED = ("orbax", "tensorflow", "grain", "torch")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def test_the_import_takes_less_than_half_a_second():
    runs = [python(CODE).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 0.5
    assert all(not heavy for _, *heavy in runs)


def test_what_is_not_needed_is_not_imported():
    listed = python(f"{PUBLIC}; import sys; print(*sys.modules)").split()
    assert not {name for name in listed if name.startswith(UNWANTED)}
