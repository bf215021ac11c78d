"""Rooms stand on floors: a room imports from the floors below it and from itself."""

import ast
from pathlib import Path

import opvseg_jax

PACKAGE = Path(opvseg_jax.__file__).parent
WORDS = "words"  # the files beside the rooms: vocabulary.py, templates.py and what they are made of
FLOORS = (
    {"core"},
    {"port", "parallel", WORDS},
    {"encoders", "text", "aggregation", "proposals", "hierarchy", "pipeline"},
    {"methods"},
    {"inference"},
    {"evaluate", "hub"},
    {"train", "export"},
    {"cli"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
OFFERS = {"__init__", "__main__"}  # offer what is inside; of them only the version is imported
DATA = "data"  # shipped data and what prepares it: no room of the house
FOREIGN = {"torch", "tensorflow", "scipy", "cv2", "transformers"}
READS_DATA = {"pipeline"}  # may ask for packages of the extra "data", if they are there


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    if not first.endswith(".py"):
        return first
    return first.removesuffix(".py") if first.removesuffix(".py") in OFFERS else WORDS


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if room_of(path) not in {*OFFERS, DATA})


def imports(path: Path) -> set[str]:
    """The full name of everything that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_used(path: Path) -> set[str]:
    found = set()
    for name in imports(path):
        package, *rest = name.split(".")
        if package != "opvseg_jax" or not rest or rest[0].startswith("__"):
            continue
        found.add(rest[0] if (PACKAGE / rest[0]).is_dir() else WORDS)
    return found - {room_of(path), DATA}


def test_every_room_has_a_floor():
    assert {room_of(path) for path in modules()} <= FLOOR_OF.keys()


def test_imports_point_down():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {used}"
        for path in modules()
        for used in sorted(rooms_used(path))
        if FLOOR_OF[used] >= FLOOR_OF[room_of(path)]
    ]
    assert wrong == []


def test_other_frameworks_are_not_imported():
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in modules()
        for name in sorted(imports(path))
        if name.split(".")[0] in FOREIGN and room_of(path) not in READS_DATA
    ]
    assert wrong == []
