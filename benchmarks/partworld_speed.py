"""How many images a second PartWorld draws on one core.

Run: python benchmarks/partworld_speed.py
"""

import argparse
import time

from opvseg_jax.pipeline.partworld import SPLITS, render_many


def images_per_second(split: str, size: int, count: int) -> float:
    """In CPU seconds of this process, so that a busy machine does not count."""
    render_many(split, 0, 20, size)
    start = time.process_time()
    render_many(split, 20, count, size)
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400)
    count = parser.parse_args().count
    sizes = (96, 128, 160)
    print("split       " + "".join(f"{size:>6} px" for size in sizes))
    for split in SPLITS:
        speeds = [images_per_second(split, size, count) for size in sizes]
        print(f"{split:<12}" + "".join(f"{speed:9.0f}" for speed in speeds))


if __name__ == "__main__":
    main()
