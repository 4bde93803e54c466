"""Objects: how a house, a car, a ship, an aircraft, a court, a tank and a tree are drawn."""

import itertools
import math

from swath.core.data.scenes.domains import (
    AIRCRAFT,
    BUILDING,
    COURT,
    NAMED_COLOURS,
    SHIP,
    TANK,
    TREE,
    VEHICLE,
    WATER,
    Colour,
)
from swath.core.data.scenes.plan import (
    AFLOAT,
    BANDS,
    CANOPY,
    GRAIN,
    LEAVES,
    NO_SHADOW,
    OFFSET_SHADOW,
    RIPPLE,
    SHEETS,
    SMOOTH,
    SWEPT_SHADOW,
    THINGS,
    WATERS,
    Frame,
    Look,
    Plan,
    patterned,
)

PAINT = Look(SMOOTH, 4)
ROOF = Look(GRAIN, 8)
CROWN = Look(LEAVES, 22, 10)

_VEHICLE_COLOURS = {"white": 4.0, "grey": 3.0, "black": 3.0, "red": 1.4, "blue": 1.4, "yellow": 0.6}
_SHIP_COLOURS = {
    "white": 5.0,
    "grey": 2.0,
    "red": 1.2,
    "blue": 1.2,
    "black": 1.0,
    "green": 0.8,
    "brown": 0.8,
}
_COURT_COLOURS = {
    "tennis court": {"green": 2.0, "blue": 2.0, "red": 2.0, "orange": 1.0},
    "basketball court": {"green": 1.5, "blue": 1.2, "red": 1.5, "grey": 1.5, "orange": 1.0},
    "soccer field": {"green": 1.0},
}
COURT_SIZES = {
    "tennis court": (35.0, 17.5),
    "basketball court": (31.0, 18.0),
    "soccer field": (92.0, 58.0),
}


def lit(colour: Colour, factor: float) -> Colour:
    """A colour under more or less light."""
    r, g, b = colour
    return round(r * factor), round(g * factor), round(b * factor)


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """A colour between two."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def _facet(plan: Plan, frame: Frame, du: float, dv: float) -> float:
    """Brightness of a roof facet whose slope faces the local direction ``(du, dv)``."""
    nx, ny = du * frame.c - dv * frame.s, du * frame.s + dv * frame.c
    return 1 + 0.24 * (nx * plan.sun[0] + ny * plan.sun[1]) / frame.scale


def building(
    plan: Plan, frame: Frame, length: float, width: float, height_m: float, roof: str
) -> bool:
    """A building centred on the frame; ``roof`` is flat, gable, hip, sheet or wing.

    Returns:
        Whether there was room.
    """
    if not plan.near(frame.x, frame.y, (length + width) * frame.scale / 2):
        return False
    if not plan.free_rect(frame, length, width):
        return False
    dice = plan.dice
    name = dice.weighted(dict(plan.domain.roofs))
    if roof == "sheet" and name in ("red", "orange") and dice.chance(0.7):
        name = dice.pick(("grey", "white", "blue", "grey"))
    colour = plan.vary(NAMED_COLOURS[name], 10)
    thing = plan.thing(BUILDING, "building", name, frame, length, width)
    u, v = length / 2, width / 2
    rect = frame.rect
    plan.claim(rect(-u, -v, u, v))
    if roof == "wing":
        _winged(plan, frame, u, v, height_m, colour, thing)
        return True
    look = ROOF
    if roof == "sheet":
        look = patterned(frame, SHEETS, dice.uniform(1.6, 3.0), 14, Look(GRAIN, 5))
    elif roof != "flat":
        look = patterned(frame, SHEETS, 1.5, 8, ROOF, math.pi / 2 * dice.below(2))
    plan.part(
        rect(-u, -v, u, v), THINGS, BUILDING, lit(colour, 0.8), look, thing, height_m, SWEPT_SHADOW
    )
    if roof in ("gable", "sheet"):
        _facets(plan, frame, u, v, height_m, colour, look, thing, 0.0)
        if roof == "sheet" and dice.chance(0.6):
            _vents(plan, frame, u, v, height_m, colour, thing)
    elif roof == "hip":
        _facets(plan, frame, u, v, height_m, colour, look, thing, min(v, u * 0.8))
        if dice.chance(0.4):  # a chimney
            a, b = dice.uniform(-u, u) * 0.4, dice.uniform(-v, v) * 0.3
            plan.part(
                rect(a - 0.5, b - 0.5, a + 0.5, b + 0.5),
                THINGS,
                BUILDING,
                (88, 72, 66),
                PAINT,
                thing,
                height_m + 1.2,
                OFFSET_SHADOW,
            )
    else:
        edge = min(0.9, v * 0.15)
        plan.part(
            rect(-u + edge, -v + edge, u - edge, v - edge),
            THINGS,
            BUILDING,
            colour,
            look,
            thing,
            height_m,
        )
        _vents(plan, frame, u, v, height_m, colour, thing)
    return True


def _facets(
    plan: Plan,
    frame: Frame,
    u: float,
    v: float,
    height_m: float,
    colour: Colour,
    look: Look,
    thing: int,
    hip: float,
) -> None:
    a = u - hip
    for side in (-1.0, 1.0):
        shade = lit(colour, _facet(plan, frame, 0.0, side))
        slope = frame.poly(((-u, side * v), (u, side * v), (a, 0.0), (-a, 0.0)))
        plan.part(slope, THINGS, BUILDING, shade, look, thing, height_m)
        if hip:
            shade = lit(colour, _facet(plan, frame, side, 0.0))
            end = frame.poly(((side * u, -v), (side * u, v), (side * a, 0.0)))
            plan.part(end, THINGS, BUILDING, shade, look, thing, height_m)
    if u > 3:
        ridge = frame.rect(-a, -0.12, a, 0.12)
        plan.part(ridge, THINGS, BUILDING, lit(colour, 1.12), PAINT, thing, height_m)


def _winged(
    plan: Plan, frame: Frame, u: float, v: float, height_m: float, colour: Colour, thing: int
) -> None:
    """An L: a main body along u and a wing along v that both reach the bounding rectangle."""
    dice = plan.dice
    body = v * dice.uniform(0.8, 1.1)
    arm = u * dice.uniform(0.6, 0.9)
    side = dice.pick((-1.0, 1.0))
    parts = (
        (frame.move(0, side * (v - body / 2)), u, body / 2),
        (frame.move(dice.pick((-1.0, 1.0)) * (u - arm / 2), 0).turn(math.pi / 2), v, arm / 2),
    )
    for local, a, b in parts:
        look = patterned(local, SHEETS, 1.5, 8, ROOF)
        plan.part(
            local.rect(-a, -b, a, b), THINGS, BUILDING, colour, look, thing, height_m, SWEPT_SHADOW
        )
    for local, a, b in parts:
        _facets(
            plan, local, a, b, height_m, colour, patterned(local, SHEETS, 1.5, 8, ROOF), thing, b
        )


def _vents(
    plan: Plan, frame: Frame, u: float, v: float, height_m: float, colour: Colour, thing: int
) -> None:
    dice = plan.dice
    for _ in range(dice.below(4) + int(u * v / 150)):
        a, b = dice.uniform(-u, u) * 0.75, dice.uniform(-v, v) * 0.7
        size = dice.uniform(0.6, 1.6)
        shade = lit(colour, dice.pick((0.75, 1.2, 1.3)))
        plan.part(
            frame.rect(a - size, b - size * 0.7, a + size, b + size * 0.7),
            THINGS,
            BUILDING,
            shade,
            PAINT,
            thing,
            height_m + 1,
            OFFSET_SHADOW,
        )


def vehicle(plan: Plan, frame: Frame, kind: str = "car", turn: float = 0.0) -> None:
    """A car, van, bus or lorry that heads along the frame's u axis, or is turned from it."""
    if not plan.near(frame.x, frame.y, 0):
        return
    if turn:
        frame = frame.turn(turn)
    if not plan.free_rect(frame, 4.5, 2.0):
        return
    dice = plan.dice
    name = dice.weighted(_VEHICLE_COLOURS)
    paint = plan.vary(NAMED_COLOURS[name], 9)
    if kind == "car":
        length, width, height = dice.uniform(4.1, 4.9), dice.uniform(1.85, 2.05), 1.5
    else:
        length, width, height = dice.uniform(7.5, 12.5), 2.6, 3.2
    thing = plan.thing(VEHICLE, "vehicle", name, frame, length, width)
    u, v = length / 2, width / 2
    body = frame.poly(
        (
            (-u, -v * 0.85),
            (-u * 0.9, -v),
            (u * 0.8, -v),
            (u, -v * 0.7),
            (u, v * 0.7),
            (u * 0.8, v),
            (-u * 0.9, v),
            (-u, v * 0.85),
        )
    )
    plan.part(body, THINGS, VEHICLE, paint, PAINT, thing, height, OFFSET_SHADOW)
    glass = mix((40, 44, 50), paint, 0.25)
    if kind == "car":
        plan.part(
            frame.rect(u * 0.12, -v * 0.75, u * 0.42, v * 0.75),
            THINGS,
            VEHICLE,
            glass,
            PAINT,
            thing,
            height,
        )
        plan.part(
            frame.rect(-u * 0.72, -v * 0.7, -u * 0.52, v * 0.7),
            THINGS,
            VEHICLE,
            glass,
            PAINT,
            thing,
            height,
        )
    else:
        plan.part(
            frame.rect(u * 0.62, -v * 0.9, u * 0.72, v * 0.9),
            THINGS,
            VEHICLE,
            glass,
            PAINT,
            thing,
            height,
        )
        plan.part(
            frame.rect(-u * 0.92, -v * 0.7, u * 0.5, v * 0.7),
            THINGS,
            VEHICLE,
            lit(paint, 1.1),
            PAINT,
            thing,
            height,
        )


def ship(plan: Plan, frame: Frame, length: float, *, wake: bool = False) -> None:
    """A boat or ship that heads along the frame's u axis."""
    if not plan.near(frame.x, frame.y, length * frame.scale / 2):
        return
    dice = plan.dice
    width = length * (dice.uniform(0.16, 0.22) if length > 25 else dice.uniform(0.28, 0.36))
    if not plan.free_rect(frame, length, width, AFLOAT):
        return
    u, v = length / 2, width / 2
    plan.claim(frame.rect(-u, -v, u, v))
    name = dice.weighted(_SHIP_COLOURS)
    hull = plan.vary(NAMED_COLOURS[name], 8)
    thing = plan.thing(SHIP, "ship", name, frame, length, width)
    if wake:
        foam = frame.poly(
            (
                (-u * 0.6, -v * 0.6),
                (-u * 0.6, v * 0.6),
                (-u * 3.2, v * 2.4),
                (-u * 3.0, 0.0),
                (-u * 3.2, -v * 2.4),
            )
        )
        plan.part(
            foam, WATERS, WATER, mix(plan.colour("sea"), (225, 232, 236), 0.45), Look(RIPPLE, 30)
        )
    tall = 6.0 if length > 25 else 2.0
    outline = (
        (-u, -v * 0.8),
        (-u * 0.85, -v),
        (u * 0.45, -v),
        (u * 0.8, -v * 0.5),
        (u, 0.0),
        (u * 0.8, v * 0.5),
        (u * 0.45, v),
        (-u * 0.85, v),
        (-u, v * 0.8),
    )
    plan.part(frame.poly(outline), THINGS, SHIP, hull, PAINT, thing, tall, SWEPT_SHADOW)
    inner = frame.poly([(a * 0.88, b * 0.72) for a, b in outline])
    if length <= 25:
        plan.part(inner, THINGS, SHIP, lit(hull, 1.12), PAINT, thing, tall)
        cabin = frame.rect(-u * 0.45, -v * 0.5, u * 0.15, v * 0.5)
        plan.part(
            cabin,
            THINGS,
            SHIP,
            dice.pick(((70, 74, 82), (196, 196, 192), (150, 124, 92))),
            PAINT,
            thing,
            tall + 0.8,
        )
        return
    plan.part(inner, THINGS, SHIP, mix(hull, (128, 100, 88), 0.6), Look(GRAIN, 10), thing, tall)
    bridge = frame.rect(-u * 0.86, -v * 0.75, -u * 0.62, v * 0.75)
    plan.part(bridge, THINGS, SHIP, (214, 214, 210), PAINT, thing, tall + 8, SWEPT_SHADOW)
    if dice.chance(0.6):  # rows of containers, else hatches
        a = -u * 0.52
        while a < u * 0.55:
            for b in (-0.62, -0.2, 0.22):
                box = plan.vary(
                    NAMED_COLOURS[dice.pick(("red", "blue", "grey", "orange", "green", "white"))],
                    12,
                )
                plan.part(
                    frame.rect(a, v * b, a + u * 0.15, v * (b + 0.38)),
                    THINGS,
                    SHIP,
                    box,
                    PAINT,
                    thing,
                    tall + 4,
                )
            a += u * 0.18
    else:
        for k in range(4):
            a = -u * 0.5 + k * u * 0.28
            plan.part(
                frame.rect(a, -v * 0.5, a + u * 0.2, v * 0.5),
                THINGS,
                SHIP,
                plan.vary((150, 140, 124), 14),
                PAINT,
                thing,
                tall + 1,
            )


def aircraft(plan: Plan, frame: Frame, length: float) -> None:
    """An aeroplane whose nose points along the frame's u axis; jets from 18 m, else propellers."""
    if not plan.near(frame.x, frame.y, length * frame.scale / 2):
        return
    dice = plan.dice
    jet = length >= 18
    span = length * (dice.uniform(0.86, 1.0) if jet else dice.uniform(1.15, 1.3))
    if not plan.free_rect(frame, length, span):
        return
    name = dice.pick(("white", "white", "white", "grey"))
    paint = plan.vary(NAMED_COLOURS[name], 7)
    u, v = length / 2, span / 2
    plan.claim(frame.rect(-u, -v, u, v))
    thing = plan.thing(AIRCRAFT, "aircraft", name, frame, length, span)
    r = length * (0.055 if jet else 0.065)
    sweep, root, tip = (0.42, 0.2, 0.06) if jet else (0.02, 0.17, 0.13)
    front = 0.22 if jet else 0.42
    low = 3.0 if jet else 1.5
    pieces = [
        (
            (u * front, side * r * 0.6),
            (u * (front - 2 * sweep), side * v),
            (u * (front - 2 * sweep) - length * tip, side * v),
            (u * front - length * root, side * r * 0.6),
        )
        for side in (-1.0, 1.0)
    ]
    tail = v * 0.38
    pieces += [
        (
            (-u * 0.74, side * r * 0.5),
            (-u * 0.92, side * tail),
            (-u, side * tail),
            (-u * 0.94, side * r * 0.4),
        )
        for side in (-1.0, 1.0)
    ]
    wing = lit(paint, 0.94)
    for piece in pieces:
        plan.part(frame.poly(piece), THINGS, AIRCRAFT, wing, PAINT, thing, low, OFFSET_SHADOW)
    if jet:
        for side in (-1.0, 1.0):
            for k in (0.34,) if length < 45 else (0.3, 0.56):
                a, b = u * (front - 2 * sweep * k) + length * 0.01, side * v * k
                plan.part(
                    frame.rect(a - length * 0.05, b - r * 0.42, a + length * 0.035, b + r * 0.42),
                    THINGS,
                    AIRCRAFT,
                    lit(paint, 0.78),
                    PAINT,
                    thing,
                    low,
                )
    hull = (
        (-u, 0.0),
        (-u * 0.8, -r * 0.75),
        (-u * 0.4, -r),
        (u * 0.72, -r),
        (u * 0.92, -r * 0.6),
        (u, 0.0),
        (u * 0.92, r * 0.6),
        (u * 0.72, r),
        (-u * 0.4, r),
        (-u * 0.8, r * 0.75),
    )
    plan.part(
        frame.poly(hull), THINGS, AIRCRAFT, lit(paint, 1.04), PAINT, thing, low + 1.5, OFFSET_SHADOW
    )
    livery = NAMED_COLOURS[dice.pick(("red", "blue", "orange", "green", "grey"))]
    fin = frame.poly(((-u * 0.7, 0.0), (-u * 0.96, -r * 0.3), (-u, 0.0), (-u * 0.96, r * 0.3)))
    plan.part(fin, THINGS, AIRCRAFT, livery, PAINT, thing, low + 3, OFFSET_SHADOW)


def tank(plan: Plan, x: float, y: float, radius_m: float, frame: Frame) -> None:
    """A round storage tank centred on a pixel position."""
    scale = frame.scale
    radius = radius_m * scale
    if not plan.near(x, y, radius):
        return
    dice = plan.dice
    local = Frame(x, y, scale, 0.0)
    if not plan.free_rect(local, 2 * radius_m, 2 * radius_m):
        return
    name = dice.weighted({"white": 5.0, "grey": 3.0, "brown": 1.5, "green": 0.6})
    paint = plan.vary(NAMED_COLOURS[name], 9)
    thing = plan.thing(TANK, "storage tank", name, local, 2 * radius_m, 2 * radius_m)
    plan.claim(local.rect(-radius_m, -radius_m, radius_m, radius_m))
    height = dice.uniform(6, 13)
    sides = 18
    ring = [
        (math.cos(2 * math.pi * k / sides), math.sin(2 * math.pi * k / sides)) for k in range(sides)
    ]
    plan.part(
        local.poly([(radius_m * c, radius_m * s) for c, s in ring]),
        THINGS,
        TANK,
        lit(paint, 0.82),
        PAINT,
        thing,
        height,
        SWEPT_SHADOW,
    )
    inner = radius_m * 0.92
    plan.part(
        local.poly([(inner * c, inner * s) for c, s in ring]),
        THINGS,
        TANK,
        paint,
        Look(GRAIN, 5),
        thing,
        height,
    )
    if dice.chance(0.4):  # a floating roof lies deep, with the wall's shadow on it
        floor = radius_m * 0.8
        shift = radius_m * 0.12
        dx, dy = plan.sun[0] * shift, plan.sun[1] * shift
        plan.part(
            local.poly([(inner * c, inner * s) for c, s in ring]),
            THINGS,
            TANK,
            lit(paint, 0.6),
            PAINT,
            thing,
            height,
        )
        plan.part(
            local.poly([(floor * c - dx, floor * s - dy) for c, s in ring]),
            THINGS,
            TANK,
            lit(paint, 0.9),
            Look(GRAIN, 8),
            thing,
            height,
        )
    else:
        half = math.atan2(plan.sun[1], plan.sun[0])
        arc = [
            (
                inner * math.cos(half + math.pi * (k / 9 - 0.5)),
                inner * math.sin(half + math.pi * (k / 9 - 0.5)),
            )
            for k in range(10)
        ]
        plan.part(local.poly(arc), THINGS, TANK, lit(paint, 1.07), Look(GRAIN, 5), thing, height)
    plan.part(
        local.rect(-0.5, -radius_m * 0.9, 0.5, 0.0),
        THINGS,
        TANK,
        lit(paint, 0.75),
        PAINT,
        thing,
        height,
    )


def court(plan: Plan, frame: Frame, noun: str) -> bool:
    """A tennis or basketball court or a soccer field, long side along the frame's u axis."""
    length, width = COURT_SIZES[noun]
    if not plan.near(frame.x, frame.y, length * frame.scale * 0.6) or not plan.free_rect(
        frame, length, width
    ):
        return False
    dice = plan.dice
    name = dice.weighted(_COURT_COLOURS[noun])
    thing = plan.thing(COURT, noun, name, frame, length, width)
    u, v = length / 2, width / 2
    plan.claim(frame.rect(-u, -v, u, v))
    line_m = max(0.1, 0.35 / frame.scale)
    if noun == "soccer field":
        turf = plan.colour("grass", 10)
        turf = mix(turf, NAMED_COLOURS["green"], 0.45)
        look = patterned(
            frame, BANDS, dice.uniform(9, 13), dice.pick((0, 7, 10)), Look(GRAIN, 12, 6)
        )
        plan.part(frame.rect(-u, -v, u, v), MARKS_UNDER, COURT, turf, look, thing)
        lines = mix(turf, (236, 236, 232), 0.75)
        a, b = u - 3, v - 3
        _outline(plan, frame, a, b, line_m, lines, thing)
        _stroke(plan, frame, 0, -b, 0, b, line_m, lines, thing)
        for side in (-1.0, 1.0):
            _outline(plan, frame.move(side * (a - 7), 0), 7, b * 0.58, line_m, lines, thing)
            _outline(plan, frame.move(side * (a - 2.5), 0), 2.5, b * 0.27, line_m, lines, thing)
        ring = [(8 * math.cos(0.5236 * k), 8 * math.sin(0.5236 * k)) for k in range(13)]
        for (p, q), (r, s) in itertools.pairwise(ring):
            _stroke(plan, frame, p, q, r, s, line_m, lines, thing)
        return True
    surface = plan.vary(NAMED_COLOURS[name], 9)
    apron = surface
    if dice.chance(0.7):
        apron = plan.vary(NAMED_COLOURS[dice.weighted(_COURT_COLOURS[noun])], 9)
    plan.part(frame.rect(-u, -v, u, v), MARKS_UNDER, COURT, apron, Look(GRAIN, 6), thing)
    a, b = (11.9, 5.5) if noun == "tennis court" else (14.0, 7.5)
    plan.part(frame.rect(-a, -b, a, b), MARKS_UNDER, COURT, surface, Look(GRAIN, 6), thing)
    lines = mix(surface, (240, 240, 238), 0.8)
    _outline(plan, frame, a, b, line_m, lines, thing)
    if noun == "tennis court":
        for side in (-1.0, 1.0):
            _stroke(plan, frame, -a, side * 4.1, a, side * 4.1, line_m, lines, thing)
            _stroke(plan, frame, side * 6.4, -4.1, side * 6.4, 4.1, line_m, lines, thing)
        _stroke(plan, frame, -6.4, 0, 6.4, 0, line_m, lines, thing)
        _stroke(plan, frame, 0, -b - 0.6, 0, b + 0.6, line_m, (70, 74, 72), thing)
    else:
        _stroke(plan, frame, 0, -b, 0, b, line_m, lines, thing)
        for side in (-1.0, 1.0):
            key = frame.rect(side * a, -2.4, side * (a - 5.8), 2.4)
            plan.part(key, MARKS_UNDER, COURT, lit(apron, 0.9), PAINT, thing)
            _outline(plan, frame.move(side * (a - 2.9), 0), 2.9, 2.4, line_m, lines, thing)
        ring = [(1.9 * math.cos(0.7854 * k), 1.9 * math.sin(0.7854 * k)) for k in range(9)]
        for (p, q), (r, s) in itertools.pairwise(ring):
            _stroke(plan, frame, p, q, r, s, line_m, lines, thing)
    return True


MARKS_UNDER = 3  # courts lie on the ground, below anything that stands


def _stroke(
    plan: Plan,
    frame: Frame,
    u0: float,
    v0: float,
    u1: float,
    v1: float,
    width: float,
    colour: Colour,
    thing: int,
) -> None:
    du, dv = u1 - u0, v1 - v0
    norm = math.hypot(du, dv) / (width / 2)
    a, b = -dv / norm, du / norm
    quad = frame.poly(((u0 + a, v0 + b), (u1 + a, v1 + b), (u1 - a, v1 - b), (u0 - a, v0 - b)))
    plan.part(quad, MARKS_UNDER, COURT, colour, PAINT, thing)


def _outline(
    plan: Plan, frame: Frame, u: float, v: float, width: float, colour: Colour, thing: int
) -> None:
    _stroke(plan, frame, -u, -v, u, -v, width, colour, thing)
    _stroke(plan, frame, u, -v, u, v, width, colour, thing)
    _stroke(plan, frame, u, v, -u, v, width, colour, thing)
    _stroke(plan, frame, -u, v, -u, -v, width, colour, thing)


def tree(plan: Plan, x: float, y: float, radius_m: float, height_m: float | None = None) -> None:
    """A single crown at a pixel position."""
    radius = radius_m / plan.gsd_m
    if not plan.near(x, y, radius):
        return
    dice = plan.dice
    colour = plan.colour("conifer" if dice.unit() < plan.domain.conifers else "tree", 9, 0.35)
    height = height_m or radius_m * dice.uniform(1.6, 2.6)
    plan.part(
        plan.blob(x, y, radius), CANOPY, TREE, lit(colour, 0.9), CROWN, 0, height, OFFSET_SHADOW
    )
    if radius > 4.5:
        shift = radius * 0.28
        highlight = plan.blob(x + plan.sun[0] * shift, y + plan.sun[1] * shift, radius * 0.55, 7)
        plan.part(highlight, CANOPY, TREE, lit(colour, 1.14), CROWN, 0, height, NO_SHADOW)
