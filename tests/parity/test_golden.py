"""Every recorded tensor of every case is reproduced from the published weights."""

import pytest

from parity import harness

FOLDER = harness.golden_folder()


def test_the_folder_holds_cases():
    assert harness.find_cases(FOLDER), f"{FOLDER} holds no <method>/<name>.safetensors"


def test_every_claimed_kind_has_a_program():
    claimed = {(method, kind) for method, kinds in harness.CLAIMED.items() for kind in kinds}
    assert claimed <= harness.PROGRAMS.keys()


@pytest.mark.parametrize(
    "path", harness.find_cases(FOLDER), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_case(path, request):
    lines = request.config.stash.setdefault(harness.LINES, {})
    case = harness.load_case(path)
    method, kind = case.about["method"], case.about["kind"]
    program = harness.PROGRAMS.get((method, kind))
    if program is None and kind in harness.PLANNED.get(method, "").split():
        lines[case.name] = f"not yet implemented: {method}/{kind}"
        pytest.skip(lines[case.name])
    assert program is not None, f"no program for kind {kind!r} of method {method!r}"
    line, problems = harness.compare(case, program)
    lines[case.name] = line if not problems else f"FAILED, {line}"
    assert not problems, "\n  ".join([f"{len(problems)} problems", *problems])
