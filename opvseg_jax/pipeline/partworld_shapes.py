"""The shapes of PartWorld: every kind as a list of polygons, drawn back to front.

An object lives in a box of about one unit, y pointing down, facing right, before it is posed.
A polygon carries a code: the part's index within its kind, plus FAR when it lies on the side away
from the viewer (painted darker), plus DARK when it is a mark such as an eye (dark, same part).
"""

import math
from random import Random

from opvseg_jax.pipeline.partworld_words import PARTWORLD

Points = list[tuple[float, float]]

MAX_PARTS = 6
FAR = MAX_PARTS
DARK = 128  # Also the bit of outlines in the canvas of `partworld_paint`.

# The circle through libm once: the same polygons on every machine.
CIRCLE = [(math.cos(2 * math.pi * i / 20), math.sin(2 * math.pi * i / 20)) for i in range(20)]


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    """An ellipse around (x, y), turned by `turn` degrees."""
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    return [(x + rx * u * c - ry * v * s, y + rx * u * s + ry * v * c) for u, v in CIRCLE]


def box(x0: float, y0: float, x1: float, y1: float, cut: float = 0.0) -> Points:
    """A rectangle; `cut` takes off its corners."""
    if not cut:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    a, b, c, d = x0 + cut, x1 - cut, y0 + cut, y1 - cut
    return [(a, y0), (b, y0), (x1, c), (x1, d), (b, y1), (a, y1), (x0, d), (x0, c)]


def strip(line: Points, *widths: float) -> Points:
    """A band along `line` with a width for each of its points."""
    left, right = [], []
    for i, ((x, y), width) in enumerate(zip(line, widths, strict=True)):
        (ax, ay), (bx, by) = line[max(i - 1, 0)], line[min(i + 1, len(line) - 1)]
        length = math.hypot(bx - ax, by - ay)
        nx, ny = (by - ay) / length * width / 2, (ax - bx) / length * width / 2
        left.append((x + nx, y + ny))
        right.append((x - nx, y - ny))
    return left + right[::-1]


class Sketch:
    """Collects the polygons of one object of a kind."""

    def __init__(self, kind: str):
        self.codes = {part: i for i, part in enumerate(PARTWORLD[kind].parts)}
        self.polygons: list[tuple[int, Points]] = []

    def add(self, part: str, points: Points, *, far: bool = False, dark: bool = False) -> None:
        code = self.codes[part] + (FAR if far else 0) + (DARK if dark else 0)
        self.polygons.append((code, points))


def sketch(kind: str, rng: Random) -> list[tuple[int, Points]]:
    """The polygons (code, points) of one `kind`, its proportions and limbs varied by `rng`."""
    out = Sketch(kind)
    DRAW[kind](out, rng)
    return out.polygons


def legs(out: Sketch, rng: Random, xs: tuple[float, float], top: float, foot: float, width: float):
    """Four legs of an animal that walks: a far and a near one at each of two places."""
    step = rng.uniform(0.02, 0.09)
    for far in (True, False):
        for i, x in enumerate(xs):
            swing = step if far == bool(i) else -step
            line = [(x, top), (x + 0.6 * swing, (top + foot) / 2), (x + swing, foot)]
            out.add("leg", strip(line, width * 1.3, width, width * 0.9), far=far)


def dog(out: Sketch, rng: Random) -> None:
    """Long body, floppy ear, snout, short tail held up."""
    lift, nod = rng.uniform(0.02, 0.16), rng.uniform(-0.04, 0.06)
    out.add("tail", strip([(-0.34, -0.06), (-0.45, -0.12), (-0.5, -0.2 - lift)], 0.12, 0.11, 0.07))
    legs(out, rng, (-0.27, 0.2), 0.08, 0.42, 0.11)
    out.add("torso", ellipse(-0.04, 0.02, 0.36, rng.uniform(0.16, 0.19), -4))
    head = [(0.16, 0.06), (0.12, -0.14), (0.2, -0.29), (0.33, -0.32), (0.42, -0.24)]
    head += [(0.56, -0.19), (0.57, -0.09), (0.42, -0.06), (0.32, 0.0)]
    out.add("head", [(x, y + nod * (x > 0.2)) for x, y in head])
    out.add("ear", ellipse(0.22, -0.15 + nod, 0.075, 0.15, rng.uniform(0, 22)))
    out.add("head", ellipse(0.37, -0.22 + nod, 0.022, 0.022), dark=True)
    out.add("head", ellipse(0.55, -0.17 + nod, 0.028, 0.024), dark=True)


def cat(out: Sketch, rng: Random) -> None:
    """Sits and looks at you: round head, two pointed ears, a long tail that curls up beside it."""
    sway = rng.uniform(-0.06, 0.06)
    tail = [(-0.14, 0.4), (-0.34, 0.38), (-0.42, 0.2), (-0.36 + sway, 0.02), (-0.43 + sway, -0.14)]
    out.add("tail", strip(tail, 0.12, 0.12, 0.11, 0.1, 0.08))
    torso = [(-0.12, -0.1), (0.14, -0.1), (0.24, 0.2), (0.28, 0.38), (0.22, 0.46), (-0.2, 0.46)]
    out.add("torso", [*torso, (-0.27, 0.36), (-0.22, 0.16)])
    for x in (-0.07, 0.1):
        out.add("leg", strip([(x, 0.12), (x, 0.32), (x + 0.01, 0.48)], 0.1, 0.11, 0.15))
    tilt, y = rng.uniform(-0.05, 0.05), rng.uniform(-0.26, -0.2)
    for side in (-1, 1):
        x = 0.02 + tilt + side * 0.13
        ear = [(x - 0.09, y - 0.06), (x + side * 0.05, y - 0.3), (x + 0.09, y - 0.06)]
        out.add("ear", ear)
    out.add("head", ellipse(0.02 + tilt, y, 0.23, 0.19))
    for side in (-1, 1):
        out.add("head", ellipse(0.02 + tilt + side * 0.09, y - 0.02, 0.028, 0.038), dark=True)
    nose = [(-0.01 + tilt, y + 0.06), (0.05 + tilt, y + 0.06), (0.02 + tilt, y + 0.1)]
    out.add("head", nose, dark=True)


def horse(out: Sketch, rng: Random) -> None:
    """Tall: long legs, a rising neck with a mane, a long tail that hangs."""
    nod, flow = rng.uniform(-0.03, 0.07), rng.uniform(0.0, 0.1)
    tail = [(-0.3, -0.1), (-0.42 - flow / 2, -0.02), (-0.44 - flow, 0.16), (-0.4 - flow, 0.32)]
    out.add("tail", strip(tail, 0.07, 0.12, 0.14, 0.05))
    legs(out, rng, (-0.24, 0.19), 0.02, 0.5, 0.085)
    out.add("torso", ellipse(-0.03, -0.04, 0.32, rng.uniform(0.13, 0.155)))
    neck = [(0.1, -0.02), (0.16, -0.28), (0.28, -0.48), (0.36, -0.5), (0.39, -0.42)]
    neck += [(0.54, -0.27 + nod), (0.5, -0.18 + nod), (0.37, -0.25), (0.32, -0.2), (0.28, 0.02)]
    out.add("head", neck)
    mane = [(0.02, -0.1), (0.06, -0.3), (0.19, -0.5), (0.33, -0.56), (0.33, -0.45), (0.24, -0.34)]
    out.add("mane", [*mane, (0.2, -0.2), (0.14, -0.06)])
    out.add("head", ellipse(0.37, -0.37, 0.02, 0.02), dark=True)


def cow(out: Sketch, rng: Random) -> None:
    """A box on short legs, a low broad head with two horns, a thin tail with a tuft."""
    sway, nod = rng.uniform(-0.05, 0.03), rng.uniform(-0.04, 0.06)
    tail = [(-0.38, -0.18), (-0.46, -0.08), (-0.47 + sway, 0.1), (-0.47 + sway, 0.22)]
    out.add("tail", strip(tail, 0.05, 0.05, 0.05, 0.11))
    legs(out, rng, (-0.27, 0.17), 0.1, 0.4, 0.12)
    torso = [(-0.4, -0.18), (-0.3, -0.23), (0.2, -0.22), (0.29, -0.12), (0.27, 0.1), (0.16, 0.18)]
    out.add("torso", [*torso, (-0.3, 0.18), (-0.4, 0.08)])
    for x, lean in ((0.27, -0.05), (0.43, 0.06)):
        line = [(x, -0.2 + nod), (x + lean, -0.28 + nod), (x + lean * 0.8, -0.4 + nod)]
        out.add("horn", strip(line, 0.09, 0.08, 0.03))
    head = [(0.2, -0.2), (0.48, -0.2), (0.48, -0.04), (0.54, 0.03), (0.54, 0.14), (0.34, 0.15)]
    out.add("head", [(x, y + nod) for x, y in [*head, (0.3, 0.04), (0.2, -0.02)]])
    out.add("head", ellipse(0.39, -0.1 + nod, 0.025, 0.025), dark=True)
    out.add("head", ellipse(0.48, 0.08 + nod, 0.02, 0.025), dark=True)


def bird(out: Sketch, rng: Random) -> None:
    """In flight: two raised wings, a fan of a tail, a pointed beak."""
    beat = rng.uniform(-0.1, 0.12)
    far = [(0.12, -0.02), (0.26, -0.36 + beat), (0.14, -0.48 + beat), (-0.02, -0.06)]
    out.add("wing", far, far=True)
    out.add("tail", [(-0.16, -0.03), (-0.48, -0.1), (-0.5, 0.03), (-0.46, 0.15), (-0.16, 0.09)])
    out.add("torso", ellipse(0.0, 0.04, 0.24, 0.12, rng.uniform(-8, 2)))
    out.add("beak", [(0.33, -0.1), (0.56, 0.0), (0.32, 0.07)])
    out.add("head", ellipse(0.27, -0.03, 0.115, 0.11))
    out.add("head", ellipse(0.31, -0.055, 0.024, 0.024), dark=True)
    wing = [(0.13, 0.04), (0.02, -0.3 + beat), (-0.16, -0.52 + beat), (-0.24, -0.42 + beat)]
    out.add("wing", [*wing, (-0.27, -0.28 + beat), (-0.22, -0.1 + beat / 2), (-0.1, 0.06)])


def duck(out: Sketch, rng: Random) -> None:
    """Swims: a hull of a torso, a folded wing, a head on a neck, a broad flat beak."""
    nod = rng.uniform(-0.05, 0.03)
    out.add("tail", [(-0.3, 0.1), (-0.36, -0.02), (-0.54, -0.14), (-0.5, 0.08), (-0.38, 0.22)])
    torso = [(-0.42, 0.06), (-0.2, 0.0), (0.1, 0.0), (0.3, 0.06), (0.36, 0.16), (0.28, 0.29)]
    out.add("torso", [*torso, (0.1, 0.36), (-0.2, 0.35), (-0.36, 0.25)])
    out.add(
        "beak", [(0.35, -0.28 + nod), (0.58, -0.2 + nod), (0.57, -0.13 + nod), (0.34, -0.14 + nod)]
    )
    out.add("head", [(0.1, 0.06), (0.14, -0.1 + nod), (0.38, -0.12 + nod), (0.31, 0.12)])
    out.add("head", ellipse(0.25, -0.23 + nod, 0.155, 0.15))
    out.add("head", ellipse(0.31, -0.27 + nod, 0.026, 0.026), dark=True)
    tip = rng.uniform(0.0, 0.06)
    wing = [
        (0.16, 0.08),
        (-0.1, 0.04),
        (-0.38, 0.06 - tip),
        (-0.24, 0.2),
        (-0.05, 0.25),
        (0.1, 0.2),
    ]
    out.add("wing", wing)


def fish(out: Sketch, rng: Random) -> None:
    """A lens with a forked tail and a fin above and below."""
    flap, deep = rng.uniform(-0.05, 0.05), rng.uniform(0.17, 0.22)
    fork = [(-0.24, 0.0), (-0.5, -0.23 + flap), (-0.42, flap / 2), (-0.5, 0.23 + flap)]
    out.add("tail", fork)
    out.add(
        "fin", [(0.14, -deep * 0.8), (-0.04, -deep - 0.18), (-0.18, -deep - 0.12), (-0.2, -0.06)]
    )
    out.add("fin", [(0.08, deep * 0.8), (-0.08, deep + 0.15), (-0.17, deep + 0.05), (-0.14, 0.08)])
    oval = ellipse(0.08, 0.0, 0.38, deep)
    out.add("torso", oval)
    face = [(x, y) for x, y in oval if x > 0.18]
    face.sort(key=lambda point: point[1])
    out.add("head", [*face, (0.13, deep * 0.5), (0.18, 0.0), (0.13, -deep * 0.5)])
    out.add("head", ellipse(0.32, -0.05, 0.03, 0.03), dark=True)


def wheel(out: Sketch, x: float, y: float, radius: float) -> None:
    """A tyre with a hub."""
    out.add("wheel", ellipse(x, y, radius, radius))
    out.add("wheel", ellipse(x, y, radius * 0.42, radius * 0.42), far=True)


def car(out: Sketch, rng: Random) -> None:
    """Low, a bonnet in front, glass above, two wheels."""
    roof = rng.uniform(-0.28, -0.22)
    body = [(-0.5, -0.02), (-0.36, -0.05), (-0.24, roof), (0.1, roof), (0.24, -0.05), (0.46, 0.0)]
    out.add("body", [*body, (0.5, 0.08), (0.5, 0.18), (-0.5, 0.18)])
    out.add("window", [(-0.3, -0.05), (-0.21, roof + 0.04), (-0.08, roof + 0.04), (-0.08, -0.05)])
    out.add("window", [(-0.03, -0.05), (-0.03, roof + 0.04), (0.08, roof + 0.04), (0.19, -0.05)])
    out.add("door", box(-0.12, -0.02, 0.16, 0.15, 0.015))
    out.add("door", box(-0.09, 0.015, -0.02, 0.04), dark=True)
    radius = rng.uniform(0.105, 0.13)
    for x in (-0.3, 0.3):
        wheel(out, x, 0.18, radius)


def truck(out: Sketch, rng: Random) -> None:
    """A tall box behind, a smaller cabin in front, three wheels."""
    top, front = rng.uniform(-0.36, -0.28), rng.uniform(0.17, 0.21)
    out.add("trailer", box(-0.52, top, front - 0.03, 0.16))
    cabin = [(front, -0.2), (0.38, -0.2), (0.46, -0.02), (0.52, 0.02), (0.52, 0.2), (front, 0.2)]
    out.add("cabin", cabin)
    out.add("window", [(front + 0.05, -0.15), (0.36, -0.15), (0.42, -0.01), (front + 0.05, -0.01)])
    for x in (-0.39, -0.17, 0.36):
        wheel(out, x, 0.2, 0.105)


def bus(out: Sketch, rng: Random) -> None:
    """One long tall box, a row of windows, a door near the front, two wheels."""
    top = rng.uniform(-0.27, -0.22)
    out.add("body", box(-0.52, top, 0.52, 0.18, 0.05))
    for x in (-0.46, -0.28, -0.1, 0.08):
        out.add("window", box(x, top + 0.06, x + 0.14, top + 0.2))
    out.add("window", box(0.43, top + 0.06, 0.52, top + 0.22))
    out.add("door", box(0.26, top + 0.06, 0.39, 0.16))
    out.add("door", box(0.32, top + 0.08, 0.33, 0.14), dark=True)
    for x in (-0.31, 0.14):
        wheel(out, x, 0.19, 0.095)


def airplane(out: Sketch, rng: Random) -> None:
    """A tube seen a little from above: two swept wings, engines below one, an upright tail."""
    sweep = rng.uniform(0.1, 0.22)
    far = [(0.14, -0.04), (0.0, -0.04), (-0.1 - sweep, -0.32), (0.0 - sweep, -0.32)]
    out.add("wing", far, far=True)
    out.add("tail", [(-0.34, -0.04), (-0.52, -0.32), (-0.42, -0.32), (-0.2, -0.06)])
    out.add("body", ellipse(0.03, 0.0, 0.5, rng.uniform(0.085, 0.105)))
    out.add("tail", [(-0.3, 0.02), (-0.52, 0.14), (-0.42, 0.15), (-0.2, 0.05)])
    out.add("body", [(0.37, -0.05), (0.46, -0.035), (0.44, 0.0), (0.36, -0.01)], dark=True)
    for x, y in ((0.05, 0.16), (-0.04 - sweep / 2, 0.29)):
        out.add("engine", ellipse(x, y, 0.115, 0.062))
    near = [(0.2, 0.03), (-0.02, 0.03), (-0.24 - sweep, 0.42), (-0.12 - sweep, 0.43), (0.0, 0.22)]
    out.add("wing", near)


def chair(out: Sketch, rng: Random) -> None:
    """An upright back at one side, a flat seat, four thin legs."""
    lean, foot = rng.uniform(-0.08, 0.0), rng.uniform(0.42, 0.5)
    for x, far in ((-0.16, True), (0.3, True), (-0.26, False), (0.2, False)):
        base = foot - 0.08 if far else foot
        out.add("leg", strip([(x, 0.0), (x + lean / 3, base)], 0.075, 0.06), far=far)
    back = [(-0.33 + lean, -0.5), (-0.19 + lean, -0.54), (-0.11, -0.04), (-0.27, 0.06)]
    out.add("back", back)
    out.add("seat", [(-0.3, 0.1), (-0.16, -0.03), (0.37, -0.03), (0.26, 0.1)])
    out.add("seat", [(-0.3, 0.1), (0.26, 0.1), (0.26, 0.16), (-0.3, 0.16)], far=True)


def sofa(out: Sketch, rng: Random) -> None:
    """Wide and low: a long back, cushions, an arm at each end, stub legs."""
    top = rng.uniform(-0.3, -0.22)
    for x in (-0.42, 0.42):
        out.add("leg", box(x - 0.045, 0.2, x + 0.045, 0.33))
    out.add("back", box(-0.44, top, 0.44, 0.12, 0.06))
    out.add("seat", box(-0.38, 0.0, 0.0, 0.24, 0.025))
    out.add("seat", box(0.0, 0.0, 0.38, 0.24, 0.025))
    high = rng.uniform(-0.12, -0.06)
    for x in (-0.43, 0.43):
        out.add("arm", box(x - 0.1, high, x + 0.1, 0.25, 0.05))


def house(out: Sketch, rng: Random) -> None:
    """A wall, a roof, a door, windows."""
    peak, half = rng.uniform(-0.5, -0.4), rng.uniform(0.36, 0.44)
    out.add("wall", box(-half, -0.12, half, 0.42))
    flat = rng.choice((0.0, 0.0, 0.18))
    out.add("roof", [(-half - 0.09, -0.08), (-flat, peak), (flat, peak), (half + 0.09, -0.08)])
    door = rng.uniform(-0.2, -0.06)
    out.add("door", box(door - 0.1, 0.08, door + 0.1, 0.42))
    out.add("door", ellipse(door + 0.06, 0.26, 0.02, 0.02), dark=True)
    out.add("window", box(0.1, 0.0, 0.3, 0.2))
    for bar in (box(0.195, 0.0, 0.205, 0.2), box(0.1, 0.095, 0.3, 0.105)):
        out.add("window", bar, dark=True)


def robot(out: Sketch, rng: Random) -> None:
    """Boxes: a head with an aerial and two eyes, a torso, arms that wave, two legs."""
    for x in (-0.11, 0.11):
        out.add("leg", box(x - 0.065, 0.2, x + 0.065, 0.46))
        out.add("leg", box(x - 0.09, 0.43, x + 0.1, 0.5))
    for side in (-1, 1):
        turn = rng.uniform(-0.9, 1.2)
        x, y = side * 0.22, -0.08
        elbow = (x + side * 0.16 * math.cos(turn), y + 0.16 * math.sin(turn))
        hand = (elbow[0] + side * 0.06, elbow[1] + math.copysign(0.14, turn))
        out.add("arm", strip([(x - side * 0.05, y), elbow, hand], 0.1, 0.1, 0.09))
    out.add("torso", box(-0.21, -0.15, 0.21, 0.24, 0.03))
    out.add("torso", box(-0.1, 0.0, 0.1, 0.03), dark=True)
    out.add("head", box(-0.015, -0.52, 0.015, -0.4))
    out.add("head", ellipse(0.0, -0.52, 0.035, 0.035))
    out.add("head", box(-0.16, -0.44, 0.16, -0.17, 0.03))
    for x in (-0.07, 0.07):
        out.add("head", ellipse(x, -0.33, 0.035, 0.035), dark=True)
    out.add("head", box(-0.08, -0.24, 0.08, -0.22), dark=True)


def flower(out: Sketch, rng: Random) -> None:
    """A ring of petals around a center, a stem, two leaves."""
    bend, count = rng.uniform(-0.08, 0.08), rng.choice((5, 6, 7, 8))
    out.add("stem", strip([(0.0, -0.2), (bend, 0.15), (0.0, 0.5)], 0.055, 0.06, 0.065))
    for side in (-1, 1):
        y = rng.uniform(0.2, 0.36)
        out.add("leaf", ellipse(side * 0.17 + bend, y, 0.17, 0.065, -side * rng.uniform(15, 40)))
    start = rng.uniform(0, 2 * math.pi)
    for i in range(count):
        angle = start + 2 * math.pi * i / count
        x, y = 0.19 * math.cos(angle), -0.22 + 0.19 * math.sin(angle)
        out.add("petal", ellipse(x, y, 0.13, 0.55 / count, math.degrees(angle)))
    out.add("center", ellipse(0.0, -0.22, 0.11, 0.11))


ANIMALS = (dog, cat, horse, bird, fish, cow, duck)
THINGS = (car, truck, airplane, bus, chair, sofa, house, robot, flower)
DRAW = {function.__name__: function for function in (*ANIMALS, *THINGS)}
