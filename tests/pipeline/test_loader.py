"""A batch follows from seed and step: workers, processes and interruptions change nothing."""

import itertools
import logging
import multiprocessing
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from pipeline.toy_source import Toy, digest, rows_of_process, toy_loader

from opvseg_jax.core.errors import UserError
from opvseg_jax.pipeline.loader import Loader
from opvseg_jax.pipeline.samples import UnwantedSampleError
from opvseg_jax.pipeline.transforms import Resize

START = 7  # in the second epoch: 5 batches of 8 for 30 samples straddle its end


@pytest.fixture(scope="module")
def uninterrupted() -> list[str]:
    return [digest(batch) for batch in itertools.islice(toy_loader().batches(), START + 4)]


def take(batches, count: int) -> list:
    result = list(itertools.islice(batches, count))
    batches.close()
    return result


@pytest.mark.parametrize("options", [{"threads": 0}, {"threads": 3, "ahead": 4}])
def test_resuming_gives_the_bytes_of_a_run_that_never_stopped(uninterrupted, options):
    resumed = take(toy_loader().batches(START, **options), 4)
    assert [digest(batch) for batch in resumed] == uninterrupted[START:]


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_bytes(uninterrupted, workers):
    pytest.importorskip("grain")
    resumed = take(toy_loader().batches(START, workers=workers), 4)
    assert [digest(batch) for batch in resumed] == uninterrupted[START:]
    assert isinstance(resumed[0]["key"], list)


def test_any_batch_can_be_had_at_once(uninterrupted):
    assert digest(toy_loader().batch(9)) == uninterrupted[9]


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_make_the_rows_of_one_batch(uninterrupted, num_processes):
    shares = [toy_loader(process=p, num_processes=num_processes) for p in range(num_processes)]
    for step in (0, START, START + 3):
        rows = [loader.batch(step) for loader in shares]
        joined = {
            name: list(itertools.chain(*(r[name] for r in rows)))
            if name == "key"
            else np.concatenate([r[name] for r in rows])
            for name in rows[0]
        }
        assert digest(joined) == uninterrupted[step]


def test_two_real_processes_resume_to_the_same_rows(uninterrupted):
    """Each its own interpreter with two threads, started at step k."""
    whole = toy_loader()
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        found = pool.starmap(rows_of_process, [(p, START, 3) for p in (0, 1)])
    for step, rows in enumerate(zip(*found, strict=True), START):
        assert list(itertools.chain(*rows)) == whole.batch(step)["key"]


def test_every_sample_of_an_epoch_comes_once():
    batches = toy_loader(batch_size=6).batches()
    keys = [key for batch in take(batches, 10) for key in batch["key"]]
    assert len(set(keys[:30])) == len(set(keys[30:])) == 30
    assert keys[:30] != keys[30:]


def test_augmentation_differs_between_epochs():
    loader = toy_loader(size=1, batch_size=1)
    assert len({digest(loader.batch(step)) for step in range(12)}) > 6


def test_broken_samples_are_replaced_named_and_counted(caplog):
    with caplog.at_level(logging.WARNING):
        loader = toy_loader(broken=(4,), broken_limit=0.05)
        keys = [key for batch in take(loader.batches(), 8) for key in batch["key"]]
    assert "4" not in keys
    assert caplog.text.count("skipped broken sample toy/4: cut short") == 1
    sound = [key for b in take(toy_loader().batches(), 8) for key in b["key"]]
    assert keys == ["5" if key == "4" else key for key in sound]  # the next one, nothing else


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_samples_stop_the_run(workers):
    if workers:
        pytest.importorskip("grain")
    loader = toy_loader(broken=(4, 5), broken_limit=0.05)
    message = "2 of 30 samples of toy are broken, more than the limit of 5.00%"
    with pytest.raises(UserError, match=message):
        take(loader.batches(workers=workers), 8)


def test_a_source_of_broken_samples_stops_at_once():
    with pytest.raises(UserError, match=r"30 samples of toy, one after the other.*cut short"):
        toy_loader(broken=range(30), broken_limit=1.0).batch(0)


def test_unwanted_samples_are_replaced_and_not_counted():
    def refuse(sample, rng):
        if sample.key == "4":
            raise UnwantedSampleError("no part in it")
        return sample

    loader = Loader(Toy(30), [refuse, *toy_loader().transforms], batch_size=8, seed=0)
    keys = [key for batch in take(loader.batches(), 8) for key in batch["key"]]
    assert "4" not in keys


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy_loader(size=0), "toy is empty"),
        (lambda: toy_loader(num_processes=3), "expected a multiple of the 3 processes"),
        (lambda: Loader(Toy(3), seed=-1, batch_size=1), "seed -1"),
        (lambda: next(toy_loader().batches(-1)), "step -1"),
        (
            lambda: Loader(Toy(9), [Resize((20, 40), 90)], batch_size=8, seed=0).batch(0),
            "2 sizes, such as 20 x 20 and 40 x 40: crop or pad",
        ),
    ],
)
def test_a_wrong_request_is_one_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_partworld_trains_without_the_extra_packages():
    """A plain installation has neither Grain nor OpenCV, and the host side needs no JAX."""
    program = """
        import sys
        for name in ("grain", "cv2", "array_record", "tensorflow_datasets", "jax"):
            sys.modules[name] = None  # importing it then fails
        from opvseg_jax.core.errors import UserError
        from opvseg_jax.pipeline.loader import Loader
        from opvseg_jax.pipeline.recipes import augmentation
        from opvseg_jax.pipeline.sources import open_source

        source = open_source("partworld:train[:20]", size=64)
        recipe = augmentation("parts", vocabulary=source.vocabulary, size=48, shorter=48)
        loader = Loader(source, recipe, batch_size=4, seed=0)
        print(next(loader.batches())["image"].shape)
        try:
            next(loader.batches(workers=1))
        except UserError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("(4, 48, 48, 3)\n")
    assert "worker processes need grain: pip install 'opvseg_jax[data]'" in done.stdout


def test_memory_does_not_grow_over_2000_batches():
    """Resident memory after 500 and after 2,500 batches, in a process of its own."""
    program = """
        import resource, sys
        sys.path.insert(0, sys.argv[1])
        from toy_source import toy_loader

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * resource.getpagesize()

        for step, batch in enumerate(toy_loader(size=40).batches()):
            if step == 500:
                early = resident()
            if step == 2500:
                print(resident() - early)
                break
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("resident memory is read from /proc")
    here = str(__import__("pathlib").Path(__file__).parent)
    command = [sys.executable, "-c", textwrap.dedent(program), here]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # One batch has 36 kB; keeping them would cost 72 MB, keeping their keys and maps 15 MB.
    assert int(done.stdout) < 4e6
