"""The harness itself fails when it should: else a green run would mean nothing."""

import numpy as np
import pytest

from parity import harness


def outcome(recorded: dict, computed: dict, reads=()) -> list[str]:
    case = harness.Case("method/case", {}, harness.Tensors(recorded))

    def run(case):
        for name in reads:
            case.tensors[name]
        return computed

    return harness.compare(case, harness.Program(run, layers=("mid.layer",)))[1]


def test_equal_tensors_pass():
    x = np.linspace(0, 1, 8, dtype=np.float32)
    assert outcome({"out.x": x, "mid.y": x}, {"out.x": x, "mid.y": x}) == []


@pytest.mark.parametrize(
    ("recorded", "computed", "complaint"),
    [
        ({"out.x": np.ones(2)}, {}, "does not compute it"),
        ({"out.x": np.ones(2)}, {"out.x": np.ones((1, 2))}, "expected [2], got [1, 2]"),
        ({"out.x": np.arange(2.0)}, {"out.x": np.array([0, np.nan])}, "inf of its range"),
        ({"out.x": np.arange(2.0)}, {"out.x": np.array([0, 1.001])}, "1.0e-03 of its range"),
        ({"out.x": np.arange(2)}, {"out.x": np.array([0, 2])}, "inf of its range"),
        ({"mid.layer": np.arange(2.0)}, {"mid.layer": np.array([0, 1.00005])}, "allowed 1e-05"),
        ({"in.x": np.ones(2)}, {}, "never read"),
        ({"extra.x": np.ones(2)}, {}, "never read"),
    ],
)
def test_every_shortcoming_is_a_problem(recorded, computed, complaint):
    problems = outcome(recorded, computed)
    assert len(problems) == 1
    assert complaint in problems[0]


def test_inputs_that_were_read_are_no_problem():
    assert outcome({"in.x": np.ones(2)}, {}, reads=["in.x"]) == []
