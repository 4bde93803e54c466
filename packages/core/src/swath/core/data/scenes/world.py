"""Where things are: districts cut into blocks by roads, and what crosses them."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

from swath.core.data.scenes.domains import BARE, FIELD, GRASS, PAVEMENT, ROAD, TREE, WATER, Colour
from swath.core.data.scenes.plan import (
    AFLOAT,
    BANDS,
    CANOPY,
    DASHES,
    GRAIN,
    GROUND,
    LEAVES,
    MARKS,
    OFFSET_SHADOW,
    PATCH,
    RIPPLE,
    ROADS,
    ROWS,
    SLABS,
    SMOOTH,
    STALLS,
    TRAMLINES,
    WATERS,
    Frame,
    Look,
    Plan,
    patterned,
)
from swath.core.data.scenes.things import (
    COURT_SIZES,
    CROWN,
    aircraft,
    building,
    court,
    lit,
    mix,
    ship,
    tank,
    tree,
    vehicle,
)

Rect = tuple[float, float, float, float]
Late = list[Callable[[], None]]

_MEADOW = Look(PATCH, 16, 10)
_SOIL = Look(PATCH, 16, 4)
_TARMAC = Look(GRAIN, 7)
_CONCRETE = Look(GRAIN, 8)
_WATER = Look(RIPPLE, 10)


@dataclass(frozen=True)
class District:
    """How a kind of place is cut up and used.

    Attributes:
        block_m: Typical length of a block.
        road: ``"street"``, ``"lane"`` or ``"track"``.
        road_m: Width of the carriageway.
        uses: Relative frequency of the uses of blocks.
    """

    block_m: float
    road: str
    road_m: float
    uses: dict[str, float]


_DISTRICTS = {
    "farmland": District(125, "track", 4.0, {"crops": 8, "meadow": 1, "woods": 0.8, "farm": 1.2}),
    "forest": District(140, "track", 3.5, {"woods": 8, "meadow": 1.2, "crops": 0.6}),
    "residential": District(78, "street", 7.0, {"houses": 9, "park": 0.8, "flats": 1.0}),
    "industrial": District(115, "street", 9.0, {"sheds": 5, "tanks": 3, "lot": 1.2, "site": 1.2}),
    "commercial": District(105, "street", 8.0, {"lot": 5, "sheds": 1.5, "flats": 2.0}),
    "sports": District(125, "lane", 6.0, {"courts": 8, "park": 1.0, "lot": 0.8}),
    "airport": District(190, "lane", 6.0, {"meadow": 6, "sheds": 1.0, "site": 0.6}),
    "harbor": District(100, "street", 8.0, {"sheds": 3, "lot": 2, "flats": 1, "tanks": 1.5}),
    "river": District(120, "lane", 6.0, {"crops": 3, "meadow": 2, "woods": 3, "houses": 1.5}),
    "lake": District(130, "track", 4.0, {"woods": 4, "meadow": 2.5, "park": 1.5, "crops": 1}),
    "coast": District(
        95, "lane", 6.0, {"houses": 3, "meadow": 2, "woods": 2, "park": 1, "lot": 0.6}
    ),
    "highway": District(
        110, "lane", 6.0, {"meadow": 2, "crops": 2, "sheds": 1.2, "houses": 1.5, "woods": 1}
    ),
}


def lay_out(plan: Plan, kind: str) -> None:
    """Fill a world that is one district."""
    dice = plan.dice
    frame = _world_frame(plan)
    reach = math.hypot(plan.width, plan.height) / 2 * plan.gsd_m
    _ground(plan, kind)
    u, v = dice.uniform(0, 60), dice.uniform(0, 60)
    rect = (-reach - u, -reach - v, reach + 60 - u, reach + 60 - v)
    late: Late = []
    if kind in _FEATURES:
        near = 0.27 * min(plan.width, plan.height) * plan.gsd_m
        _FEATURES[kind](
            plan, frame, 1.05 * (reach + 60), 3 * reach, dice.uniform(-near, near), late
        )
    _district(plan, frame, rect, _DISTRICTS[kind])
    for draw in late:
        draw()


def lay_out_region(plan: Plan) -> None:
    """Fill a large world with many districts, main roads between them, and one river or coast."""
    dice = plan.dice
    frame = _world_frame(plan)
    reach = math.hypot(plan.width, plan.height) / 2 * plan.gsd_m + 20
    _ground(plan, "farmland")
    rect = (-reach, -reach, reach, reach)
    late: Late = []
    weights = dict(plan.domain.kinds)
    wet = dice.weighted({kind: weights[kind] for kind in ("river", "coast", "harbor")})
    _FEATURES[wet](plan, frame, reach, 3 * reach, dice.uniform(-0.3, 0.3) * reach, late)
    crossing = frame.turn(dice.uniform(0.2, 0.6))
    _highway(plan, crossing, reach, 3 * reach, dice.uniform(-0.3, 0.3) * reach, late)
    for once in ("river", "coast", "harbor", "highway"):
        del weights[once]
    dry = {kind: weight for kind, weight in weights.items() if kind not in _FEATURES}

    def district(inner: Rect) -> None:
        u0, v0, u1, v1 = inner
        local = frame.move((u0 + u1) / 2, (v0 + v1) / 2)
        a, b = (u1 - u0) / 2, (v1 - v0) / 2
        if b > a:
            a, b, local = b, a, local.turn(math.pi / 2)
        if not plan.near(local.x, local.y, math.hypot(a, b) * frame.scale):
            return
        steps = (-1.0, -0.6, -0.2, 0.2, 0.6, 1.0)
        clear = b > 95 and plan.free(*(local.at(p * a, q * b) for p in steps for q in steps))
        kind = dice.weighted(weights if clear else dry)
        if kind in _FEATURES:
            offset = 0.0 if kind == "lake" else 25 - b
            _FEATURES[kind](plan, local, a, a - 7, offset, late)
        _district(plan, local, (-a, -b, a, b), _DISTRICTS[kind])

    _cut(plan, frame, rect, 300, "street", 11.0, district, 0)
    for draw in late:
        draw()


def _world_frame(plan: Plan) -> Frame:
    scale = 1 / plan.gsd_m
    return Frame(plan.width / 2, plan.height / 2, scale, 0.0).turn(
        plan.dice.uniform(0, 2 * math.pi)
    )


def _ground(plan: Plan, kind: str) -> None:
    w, h = float(plan.width), float(plan.height)
    colour = plan.colour("grass")
    plan.part([-9, -9, w + 9, -9, w + 9, h + 9, -9, h + 9], GROUND, GRASS, colour, _MEADOW)


def _district(plan: Plan, frame: Frame, rect: Rect, district: District) -> None:
    def use(inner: Rect) -> None:
        u0, v0, u1, v1 = inner
        margin = 2.0 if district.road == "street" else 0.6
        a, b = (u1 - u0) / 2 - margin, (v1 - v0) / 2 - margin
        if min(a, b) < 4:
            return
        local = frame.move((u0 + u1) / 2, (v0 + v1) / 2)
        if b > a:
            a, b, local = b, a, local.turn(math.pi / 2)
        if plan.near(local.x, local.y, math.hypot(a, b) * frame.scale):
            _USES[plan.dice.weighted(district.uses)](plan, local, a, b)

    _cut(plan, frame, rect, district.block_m, district.road, district.road_m, use, 0)


def _cut(
    plan: Plan,
    frame: Frame,
    rect: Rect,
    size: float,
    road: str,
    width: float,
    leaf: Callable[[Rect], None],
    depth: int,
) -> None:
    """Cut a rectangle into blocks by roads, the longer side first."""
    dice = plan.dice
    u0, v0, u1, v1 = rect
    du, dv = u1 - u0, v1 - v0
    if max(du, dv) <= size * dice.uniform(0.85, 1.5) or depth > 9:
        leaf(rect)
        return
    share, half = dice.uniform(0.36, 0.64), width / 2
    if du >= dv:
        cut = u0 + du * share
        _road(plan, frame.move(cut, (v0 + v1) / 2).turn(math.pi / 2), dv, width, road)
        rects = ((u0, v0, cut - half, v1), (cut + half, v0, u1, v1))
    else:
        cut = v0 + dv * share
        _road(plan, frame.move((u0 + u1) / 2, cut), du, width, road)
        rects = ((u0, v0, u1, cut - half), (u0, cut + half, u1, v1))
    for part in rects:
        _cut(plan, frame, part, size, road, width, leaf, depth + 1)


# Roads -------------------------------------------------------------------------------------------


def _line_colour(ground: Colour, share: float = 0.75) -> Colour:
    return mix(ground, (232, 230, 222), share)


def _dashes(plan: Plan, frame: Frame, length: float, offset: float, ground: Colour) -> None:
    width = max(0.1, 0.22 * plan.gsd_m)
    look = patterned(frame, DASHES, 9.0, 20, Look(SMOOTH, 3))
    strip = frame.rect(-length / 2, offset - width, length / 2, offset + width)
    plan.part(strip, MARKS, ROAD, _line_colour(ground, 0.42), look)


def _road(plan: Plan, frame: Frame, length: float, width: float, style: str) -> None:
    dice = plan.dice
    if not plan.near(frame.x, frame.y, length / 2 * frame.scale + 20):
        return
    a, b = length / 2, width / 2
    if style == "track":
        sealed = dice.chance(0.3)
        colour = plan.colour("asphalt" if sealed else "dirt")
        look = _TARMAC if sealed else patterned(frame, BANDS, b, 9, Look(GRAIN, 14), math.pi / 2)
        plan.part(frame.rect(-a, -b - 0.8, a, b + 0.8), ROADS, GRASS, plan.colour("grass"), _MEADOW)
        plan.part(frame.rect(-a - 1, -b + 0.3, a + 1, b - 0.3), ROADS, ROAD, colour, look)
        if dice.chance(0.35):
            _tree_row(plan, frame.move(0, b + 3), a, dice.uniform(7, 12))
        if dice.chance(0.3):
            vehicle(plan, frame.move(dice.uniform(-a, a), 0), dice.pick(("car", "lorry")))
        return
    asphalt = plan.colour("asphalt", 6, 0.12)
    if style == "street":
        plan.part(
            frame.rect(-a, -b - 2, a, b + 2),
            ROADS,
            PAVEMENT,
            plan.colour("concrete"),
            Look(GRAIN, 8),
        )
    plan.part(frame.rect(-a - 2, -b, a + 2, b), ROADS, ROAD, asphalt, _TARMAC)
    for _ in range(dice.below(3)):  # patches of newer asphalt
        p, q = dice.uniform(-a, a), dice.uniform(-b, b * 0.3)
        plan.part(
            frame.rect(p, q, p + dice.uniform(4, 20), q + b * 0.6),
            ROADS,
            ROAD,
            lit(asphalt, dice.uniform(0.84, 1.1)),
            _TARMAC,
        )
    _dashes(plan, frame, length - 8, 0.0, asphalt)
    if width > 8.5:
        for side in (-1.0, 1.0):
            _dashes(plan, frame, length - 8, side * b / 2, asphalt)
    if style == "street":
        for end in (-1.0, 1.0):
            if dice.chance(0.5):  # zebra crossing
                look = patterned(frame, STALLS, 1.3, 44, Look(SMOOTH, 3), math.pi / 2)
                zebra = frame.rect(end * (a - 5), -b + 0.4, end * (a - 2.2), b - 0.4)
                plan.part(zebra, MARKS, ROAD, lit(asphalt, 1.25), look)
        if dice.chance(0.5):
            _tree_row(
                plan, frame.move(0, dice.pick((-1.0, 1.0)) * (b + 2.2)), a - 6, dice.uniform(9, 15)
            )
    _traffic(plan, frame, a - 4, (b * 0.5,), 34)
    if style == "street" and dice.chance(0.7):  # parked at the kerb
        side = dice.pick((-1.0, 1.0))
        u = -a + 8
        while u < a - 8:
            if dice.chance(0.25):
                vehicle(plan, frame.move(u, side * (b - 1.15)))
            u += 6.2


def _traffic(plan: Plan, frame: Frame, reach: float, lanes: tuple[float, ...], gap: float) -> None:
    dice = plan.dice
    for lane in lanes:
        for side in (-1.0, 1.0):
            local = frame if side > 0 else frame.turn(math.pi)
            u = -reach + dice.uniform(0, 2 * gap)
            while u < reach:
                kind = "car" if dice.chance(0.85) else "lorry"
                vehicle(plan, local.move(u, lane), kind, dice.uniform(-0.03, 0.03))
                u += 14 + dice.uniform(0, 2 * gap)


def _tree_row(plan: Plan, frame: Frame, reach: float, gap: float) -> None:
    dice = plan.dice
    radius = dice.uniform(1.8, 3.4)
    u = -reach
    while u < reach:
        if dice.chance(0.8):
            x, y = frame.at(u, dice.uniform(-0.5, 0.5))
            if plan.free((x, y)):
                tree(plan, x, y, radius * dice.uniform(0.8, 1.2))
        u += gap * dice.uniform(0.85, 1.15)


def _scatter(
    plan: Plan, frame: Frame, a: float, b: float, count: int, low: float = 1.5, high: float = 4.0
) -> None:
    dice = plan.dice
    for _ in range(count):
        x, y = frame.at(dice.uniform(-a, a), dice.uniform(-b, b))
        radius = dice.uniform(low, high)
        r = radius * frame.scale * 0.8
        seen = plan.near(x, y, radius / plan.gsd_m)
        if seen and plan.free((x, y), (x + r, y), (x - r, y), (x, y + r), (x, y - r)):
            tree(plan, x, y, radius)


# Uses of blocks: each fills the rectangle |u| <= a, |v| <= b of its frame, a >= b -----------------


def _crops(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    if plan.domain.name == "arid" and b > 30 and dice.chance(0.3):  # centre-pivot irrigation
        plan.part(frame.rect(-a, -b, a, b), GROUND, BARE, plan.colour("bare"), _SOIL)
        x, y = frame.x, frame.y
        plan.part(
            plan.blob(x, y, b * frame.scale, 36, 0.0),
            GROUND,
            FIELD,
            plan.colour("crop", 10, 0.8),
            Look(PATCH, 18, 14),
        )
        cut = plan.blob(x, y, b * frame.scale * 0.98, 36, 0.0)
        plan.part(
            [x, y, *cut[: 2 * dice.uniform(6, 16).__int__()]],
            GROUND,
            FIELD,
            plan.colour("crop", 10, 0.8),
            Look(PATCH, 18, 8),
        )
        return
    count = 1 + dice.below(3 if a < 40 else 5)
    edges = sorted(dice.uniform(-0.8, 0.8) * a for _ in range(count - 1))
    edges = [-a, *edges, a]
    for u0, u1 in itertools.pairwise(edges):
        if u1 - u0 > 8:
            gap = dice.uniform(0.2, 1.2)
            _parcel(plan, frame.move((u0 + u1) / 2, 0), (u1 - u0) / 2 - gap, b - gap)
    for u in edges[1:-1]:
        if dice.chance(0.2):
            _tree_row(plan, frame.move(u, 0).turn(math.pi / 2), b, dice.uniform(4, 9))


def _parcel(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    crop, bare, orchard = plan.domain.crops
    what = dice.weighted({"crop": crop, "soil": bare, "orchard": orchard})
    skew = min(6.0, 0.12 * a)
    corners = [
        (su * a + dice.uniform(-skew, 0) * su, sv * b)
        for su, sv in ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))
    ]
    turn = math.pi / 2 * dice.below(2)
    if what == "orchard":
        _orchard(plan, frame, a, b, corners)
        return
    material = "crop" if what == "crop" else "soil"
    base = Look(PATCH, dice.pick((10, 14, 20)), dice.pick((0, 6, 14)))
    pattern, period, strength = dice.pick(
        (
            (ROWS, 1.6, 10),
            (ROWS, 2.6, 14),
            (ROWS, 4.0, 12),
            (TRAMLINES, 12.0, 20),
            (TRAMLINES, 18.0, 16),
            (BANDS, 7.0, 6),
        )
    )
    look = patterned(frame, pattern, period * dice.uniform(0.85, 1.2), strength, base, turn)
    colour = plan.colour(material, 10, 0.85)
    plan.part(frame.poly(corners), GROUND, FIELD, colour, look)
    if dice.chance(0.3):  # the headland, worked across
        depth = min(7.0, a * 0.3)
        head = patterned(frame, pattern, period, strength, base, turn + math.pi / 2)
        u = -a + depth
        plan.part(
            frame.poly((corners[0], (u, -b), (u, b), corners[3])),
            GROUND,
            FIELD,
            lit(colour, dice.uniform(0.93, 1.07)),
            head,
        )
    if dice.chance(0.25):  # a wet or poor patch
        x, y = frame.at(dice.uniform(-a, a) * 0.6, dice.uniform(-b, b) * 0.6)
        size = dice.uniform(0.15, 0.35) * min(a, b) * frame.scale
        plan.part(
            plan.blob(x, y, size, 11, 0.3),
            GROUND,
            FIELD,
            lit(colour, dice.pick((0.85, 1.12))),
            look,
        )


def _orchard(
    plan: Plan, frame: Frame, a: float, b: float, corners: list[tuple[float, float]]
) -> None:
    dice = plan.dice
    ground = plan.colour(dice.pick(("grass", "soil", "crop")), 8)
    plan.part(
        frame.poly(corners),
        GROUND,
        FIELD,
        ground,
        patterned(frame, ROWS, 5.0, 6, _MEADOW, math.pi / 2),
    )
    step = max(dice.uniform(5.5, 7.5), 9.0 / frame.scale)
    radius = step * frame.scale * dice.uniform(0.26, 0.36)
    crown = plan.colour("tree", 6)
    v = -b + step * 0.7
    while v < b - step * 0.4:
        u = -a + step * 0.7
        while u < a - step * 0.4:
            x, y = frame.at(u + dice.uniform(-0.4, 0.4), v)
            if plan.near(x, y, radius) and plan.free((x, y)) and dice.chance(0.94):
                plan.part(
                    plan.blob(x, y, radius * dice.uniform(0.85, 1.15), 7),
                    CANOPY,
                    FIELD,
                    plan.vary(crown, 6),
                    CROWN,
                    0,
                    3.0,
                    OFFSET_SHADOW,
                )
            u += step
        v += step


def _meadow(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    look = patterned(frame, BANDS, dice.uniform(4, 9), dice.pick((0, 0, 6)), Look(PATCH, 20, 14))
    plan.part(frame.rect(-a, -b, a, b), GROUND, GRASS, plan.colour("grass", 10, 0.6), look)
    for _ in range(dice.below(3)):
        x, y = frame.at(dice.uniform(-a, a) * 0.7, dice.uniform(-b, b) * 0.7)
        bare = dice.chance(0.4)
        blob = plan.blob(x, y, dice.uniform(4, 14) * frame.scale, 12, 0.35)
        plan.part(
            blob,
            GROUND,
            BARE if bare else GRASS,
            plan.colour("bare" if bare else "grass", 8, 0.8),
            Look(PATCH, 20, 8),
        )
    _scatter(plan, frame, a, b, dice.below(10))


def _woods(plan: Plan, frame: Frame, a: float, b: float) -> None:
    """Closed canopy as one textured part, crowns along its edge and over it."""
    dice = plan.dice
    steps = (-0.9, -0.45, 0.0, 0.45, 0.9)
    if not plan.free(*(frame.at(p * a, q * b) for p in steps for q in steps)):
        _open_woods(plan, frame, a, b)
        return
    inset = 4.0
    edge = []
    count = 6
    for u0, v0, u1, v1 in ((-a, -b, a, -b), (a, -b, a, b), (a, b, -a, b), (-a, b, -a, -b)):
        for k in range(count):
            t = k / count
            wave = inset + dice.uniform(-2.5, 2.5)
            u, v = u0 + (u1 - u0) * t, v0 + (v1 - v0) * t
            edge.append(
                (
                    u - math.copysign(wave, u) * (abs(u) > a - 1),
                    v - math.copysign(wave, v) * (abs(v) > b - 1),
                )
            )
    conifer = dice.unit() < plan.domain.conifers
    colour = plan.colour("conifer" if conifer else "tree", 8, 0.4)
    floor = frame.poly(edge)
    height = dice.uniform(7, 14)
    rows = None
    if dice.chance(0.25):  # a plantation shows its rows
        rows = patterned(
            frame, ROWS, dice.uniform(4, 6), 16, Look(LEAVES, 34, 10), math.pi / 2 * dice.below(2)
        )
    plan.part(floor, CANOPY, TREE, colour, rows or Look(LEAVES, 44, 12), 0, height, OFFSET_SHADOW)
    for _ in range(dice.below(3)):  # stands of other species or age
        x, y = frame.at(dice.uniform(-a, a) * 0.6, dice.uniform(-b, b) * 0.6)
        if plan.near(x, y, 60):
            other = plan.colour("conifer" if dice.unit() < 0.4 else "tree", 8, 0.9)
            plan.part(
                plan.blob(x, y, dice.uniform(8, 20) * frame.scale, 12, 0.3),
                CANOPY,
                TREE,
                other,
                Look(LEAVES, 44, 12),
                0,
                height,
            )
    if dice.chance(0.35):  # a clearing
        u, v = dice.uniform(-a, a) * 0.5, dice.uniform(-b, b) * 0.5
        x, y = frame.at(u, v)
        grassy = dice.chance(0.6)
        size = min(dice.uniform(8, 18), b * 0.5) * frame.scale
        plan.part(
            plan.blob(x, y, size, 12, 0.3),
            CANOPY,
            GRASS if grassy else BARE,
            plan.colour("grass" if grassy else "bare"),
            _MEADOW,
        )
    step = 6.5
    for p, q, along in ((-b, 1, True), (b, -1, True), (-a, 1, False), (a, -1, False)):
        reach = a if along else b
        t = -reach
        while t < reach:
            w = p + q * dice.uniform(1.5, 5.0)
            x, y = frame.at(t, w) if along else frame.at(w, t)
            if plan.near(x, y, 8):
                tree(plan, x, y, dice.uniform(2.0, 3.8), height)
            t += step * dice.uniform(0.6, 1.3)
    for _ in range(int(a * b / 160)):
        x, y = frame.at(dice.uniform(-a, a) * 0.9, dice.uniform(-b, b) * 0.9)
        tree(plan, x, y, dice.uniform(2.4, 4.4), height + 2)


def _open_woods(plan: Plan, frame: Frame, a: float, b: float) -> None:
    """Woods of single crowns, which keep clear of what crosses the block."""
    floor = plan.colour("tree", 8, 0.4)
    plan.part(frame.rect(-a, -b, a, b), GROUND, TREE, lit(floor, 0.7), Look(LEAVES, 30, 10))
    _scatter(plan, frame, a, b, int(a * b / 22), 2.6, 5.0)


def _houses(plan: Plan, frame: Frame, a: float, b: float) -> None:
    """Lots along both long sides of the block, gardens back to back."""
    dice = plan.dice
    rows = ((frame.turn(math.pi), b), (frame, b)) if b > 17 else ((frame, 2 * b),)
    roofs = dice.pick(
        (("gable", "hip", "wing"), ("hip",), ("gable",), ("gable", "flat"), ("hip", "wing"))
    )
    lot = dice.uniform(15, 23)
    setback = dice.uniform(4, 7)
    for row, depth in rows:
        u = -a
        while u + lot * 0.7 < a:
            wide = min(lot * dice.uniform(0.9, 1.15), a - u)
            middle = row.move(u + wide / 2, b)
            if plan.near(middle.x, middle.y, (wide + depth) * frame.scale):
                _lot(plan, middle, wide / 2, depth, setback, dice.pick(roofs))
            u += wide


def _lot(plan: Plan, frame: Frame, half: float, depth: float, setback: float, roof: str) -> None:
    """One house; the frame stands on the street side's middle, the garden is towards -v."""
    dice = plan.dice
    lawn = plan.colour("grass", 10, 0.35)
    plan.part(frame.rect(-half, -depth, half, 0), GROUND, GRASS, lawn, Look(PATCH, 14, 10))
    if dice.chance(0.25):
        plan.part(
            frame.rect(-half, -depth, half, -depth * 0.75), GROUND, BARE, plan.colour("bare"), _SOIL
        )
    width = min(dice.uniform(10, 15), 2 * half - 3.5)
    deep = min(dice.uniform(8, 11), depth - setback - 2)
    if width < 6 or deep < 5:
        return
    side = dice.pick((-1.0, 1.0))
    shift = side * (half - width / 2 - 1)
    drive = -side * (half - 2.1)
    length = setback + dice.uniform(2, deep)
    paved = frame.rect(drive - 1.6, -length, drive + 1.6, 1.5)
    plan.part(paved, GROUND, PAVEMENT, plan.colour("concrete", 10, 0.6), _CONCRETE)
    house = frame.move(shift, -setback - deep / 2)
    if width < deep:
        house, width, deep = house.turn(math.pi / 2), deep, width
    if dice.chance(0.5):
        plan.part(
            house.rect(-width * 0.3, -deep / 2 - 3.5, width * 0.3, 0),
            GROUND,
            PAVEMENT,
            plan.colour("concrete"),
            _CONCRETE,
        )
    building(plan, house, width, deep, dice.uniform(4.5, 8), roof)
    if dice.chance(0.6):
        vehicle(
            plan,
            frame.move(drive, -dice.uniform(2.6, length)).turn(dice.pick((-1, 1)) * math.pi / 2),
        )
    back = -setback - deep
    garden = frame.move(0, (back - depth) / 2)
    if dice.chance(0.14) and depth + back > 7:
        _pool(plan, garden.move(dice.uniform(-half, half) * 0.4, 0))
    if dice.chance(0.3) and depth + back > 6:  # a shed
        building(
            plan,
            garden.move(dice.pick((-1, 1)) * (half - 3), -(depth + back) / 2 + 3),
            4,
            3,
            2.5,
            "gable",
        )
    _scatter(plan, garden, half - 1, max(1.0, (depth + back) / 2 - 1), dice.below(5), 1.2, 3.4)
    _scatter(plan, frame.move(0, -setback / 2), half - 1, setback / 2, dice.below(2), 1.0, 2.4)


def _pool(plan: Plan, frame: Frame) -> None:
    dice = plan.dice
    u, v = dice.uniform(3, 5), dice.uniform(1.8, 2.6)
    plan.part(
        frame.rect(-u - 1.2, -v - 1.2, u + 1.2, v + 1.2),
        GROUND,
        PAVEMENT,
        plan.colour("concrete"),
        _CONCRETE,
    )
    plan.part(
        frame.rect(-u, -v, u, v), GROUND, WATER, plan.vary((92, 158, 178), 16), Look(RIPPLE, 6)
    )
    plan.claim(frame.rect(-u, -v, u, v))


def _flats(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    plan.part(frame.rect(-a, -b, a, b), GROUND, GRASS, plan.colour("grass"), _MEADOW)
    wide = dice.uniform(11, 15)
    gap = dice.uniform(14, 22)
    height = dice.uniform(9, 22)
    u = -a + wide / 2 + 3
    while u < a - wide / 2:
        slab = frame.move(u, dice.uniform(-3, 3)).turn(math.pi / 2)
        building(
            plan, slab, max(14.0, 2 * b - 12), wide, height, dice.pick(("flat", "flat", "gable"))
        )
        u += wide
        if u + gap < a and dice.chance(0.6):
            strip = frame.move(u - wide / 2 + gap / 2, 0).turn(math.pi / 2)
            _stalls(plan, strip, b - 4, 5.5, 0.55, one_sided=True)
        u += gap
    _scatter(plan, frame, a, b, 6 + dice.below(10))


def _sheds(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    yard = plan.colour(dice.pick(("concrete", "asphalt")), 8, 0.5)
    plan.part(
        frame.rect(-a, -b, a, b), GROUND, PAVEMENT, yard, patterned(frame, SLABS, 6.0, 5, _CONCRETE)
    )
    u = -a + 5
    while u < a - 14:
        wide = min(dice.uniform(18, 46), a - 4 - u)
        if wide < 14:
            break
        deep = (2 * b - 8) * dice.uniform(0.5, 0.85)
        shift = dice.pick((-1, 1)) * (2 * b - 8 - deep) / 2
        local = frame.move(u + wide / 2, shift)
        length, width = wide, deep
        if deep > wide:
            local, length, width = local.turn(math.pi / 2), deep, wide
        building(
            plan, local, length, width, dice.uniform(6, 12), dice.pick(("sheet", "sheet", "flat"))
        )
        for _ in range(dice.below(4)):
            spot = frame.move(
                u + dice.uniform(0, wide), -math.copysign(b - dice.uniform(5, 9), shift)
            )
            vehicle(
                plan,
                spot.turn(math.pi / 2 * dice.below(4) + dice.uniform(-0.1, 0.1)),
                dice.pick(("car", "lorry", "lorry")),
            )
        u += wide + dice.uniform(7, 14)
    _scatter(plan, frame, a, b, dice.below(5), 1.2, 2.6)


def _tanks(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    bare = dice.chance(0.5)
    ground = plan.colour("bare" if bare else "concrete", 8, 0.6)
    plan.part(
        frame.rect(-a, -b, a, b), GROUND, BARE if bare else PAVEMENT, ground, Look(GRAIN, 14, 4)
    )
    radius = min(dice.uniform(5, 14), b * 0.7)
    pitch = radius * dice.uniform(2.5, 3.0)
    columns, lines = max(1, int(2 * a / pitch)), max(1, int(2 * b / pitch))
    for i in range(columns):
        for j in range(lines):
            u = (i - (columns - 1) / 2) * pitch
            v = (j - (lines - 1) / 2) * pitch
            if dice.chance(0.85):
                x, y = frame.at(u, v)
                wall = radius * 1.25 * frame.scale
                rim = plan.blob(x, y, wall, 8, 0.0)
                plan.part(
                    rim, GROUND, BARE if bare else PAVEMENT, lit(ground, 0.92), Look(GRAIN, 14)
                )
                tank(plan, x, y, radius * dice.uniform(0.75, 1.0), frame)
    for j in range(lines - 1):
        v = (j - (lines - 2) / 2) * pitch
        plan.part(
            frame.rect(-a, v - 0.4, a, v + 0.4),
            GROUND,
            PAVEMENT,
            plan.colour("concrete"),
            _CONCRETE,
        )
    vehicle(plan, frame.move(dice.uniform(-a, a), b - 3), "lorry")


def _stalls(
    plan: Plan, frame: Frame, a: float, depth: float, full: float, *, one_sided: bool = False
) -> None:
    """Rows of parking stalls along u on both sides of an aisle, with their cars."""
    dice = plan.dice
    aisle = 3.2
    ground = plan.colour("asphalt", 8, 0.3)
    sides = (1.0,) if one_sided else (-1.0, 1.0)
    plan.part(
        frame.rect(-a, -aisle - depth * (not one_sided), a, aisle + depth),
        GROUND,
        PAVEMENT,
        ground,
        _TARMAC,
    )
    look = patterned(frame, STALLS, 2.6, 34, _TARMAC)
    origin = frame.at(0, 0)
    phase = (origin[0] * look.ux + origin[1] * look.uy) / (64 * 256)
    start = (math.ceil(phase) - phase + 0.5) * 2.6
    first = start - 2.6 * math.floor((start + a - 1.3) / 2.6)
    for side in sides:
        strip = frame.rect(-a + 0.3, side * aisle, a - 0.3, side * (aisle + depth))
        plan.part(strip, GROUND, PAVEMENT, lit(ground, 1.08), look)
        u = first
        while u < a - 1.3:
            if dice.chance(full):
                spot = frame.move(u, side * (aisle + depth / 2) + dice.uniform(-0.3, 0.3))
                turn = dice.pick((-1, 1)) * math.pi / 2 + dice.uniform(-0.05, 0.05)
                vehicle(plan, spot, "car", turn)
            u += 2.6


def _lot_block(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    ground = plan.colour("asphalt", 8, 0.4)
    plan.part(frame.rect(-a, -b, a, b), GROUND, PAVEMENT, ground, _TARMAC)
    full = dice.uniform(0.15, 0.8)
    store = b > 22 and dice.chance(0.7)
    end = a
    if store:
        deep = min(dice.uniform(16, 34), a * 0.8)
        end = a - deep - 6
        building(
            plan,
            frame.move(a - deep / 2 - 2, 0).turn(math.pi / 2),
            2 * b - 8,
            deep,
            dice.uniform(6, 11),
            "flat",
        )
    middle, reach = (end - a) / 2, (end + a) / 2
    v = -b + 9.5
    while v < b - 8:
        _stalls(plan, frame.move(middle, v), reach - 5, 5.2, full)
        v += 17.2
        if v < b and dice.chance(0.35):  # a green strip between the rows
            plan.part(
                frame.rect(middle - reach + 6, v - 9.0, middle + reach - 6, v - 8.2),
                GROUND,
                GRASS,
                plan.colour("grass"),
                _MEADOW,
            )
            _tree_row(plan, frame.move(middle, v - 8.6), reach - 8, dice.uniform(9, 14))


def _courts(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    plan.part(frame.rect(-a, -b, a, b), GROUND, GRASS, plan.colour("grass"), _MEADOW)
    noun = dice.weighted(
        {
            "tennis court": 4.0,
            "basketball court": 3.0,
            "soccer field": 2.5 if a > 47 and b > 30 else 0.0,
        }
    )
    length, width = COURT_SIZES[noun]
    across = dice.chance(0.5) and 2 * b > length + 2
    du, dv = (width, length) if across else (length, width)
    gap = dice.uniform(1.5, 8)
    columns, lines = max(1, int(2 * a / (du + gap))), max(1, int(2 * b / (dv + gap)))
    for i in range(columns):
        for j in range(lines):
            if dice.chance(0.1):
                continue
            local = frame.move(
                (i - (columns - 1) / 2) * (du + gap), (j - (lines - 1) / 2) * (dv + gap)
            )
            kind = noun
            if noun != "soccer field" and dice.chance(0.25):
                kind = "basketball court" if noun == "tennis court" else "tennis court"
                if max(COURT_SIZES[kind][0] - length, COURT_SIZES[kind][1] - width) > gap:
                    kind = noun
            court(plan, local.turn(math.pi / 2) if across else local, kind)
    if dice.chance(0.4):
        building(
            plan,
            frame.move(dice.uniform(-a, a) * 0.6, b - 5),
            14,
            7,
            4,
            dice.pick(("flat", "gable")),
        )
    _scatter(plan, frame, a, b, 4 + dice.below(12))


def _park(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    plan.part(frame.rect(-a, -b, a, b), GROUND, GRASS, plan.colour("grass", 8, 0.4), _MEADOW)
    path = plan.colour(dice.pick(("dirt", "concrete")), 8)
    bend = dice.uniform(-0.6, 0.6) * b
    spine = [
        (-a + 2 * a * t, bend * math.sin(math.pi * t * 2) + dice.uniform(-1, 1))
        for t in (k / 12 for k in range(13))
    ]
    plan.part(frame.poly(_ribbon(spine, 1.3)), GROUND, PAVEMENT, path, _CONCRETE)
    plan.claim(frame.poly(_ribbon(spine, 1.5)))
    if b > 14 and dice.chance(0.45):
        x, y = frame.at(dice.uniform(-a, a) * 0.5, -math.copysign(b * 0.5, bend))
        size = dice.uniform(5, min(12, b * 0.45)) * frame.scale
        plan.part(plan.blob(x, y, size * 1.15, 14, 0.14), GROUND, BARE, plan.colour("sand"), _SOIL)
        pond = plan.blob(x, y, size, 14, 0.16)
        plan.part(pond, GROUND, WATER, plan.colour("water", 8, 0.7), _WATER)
        plan.claim(pond)
    _scatter(plan, frame, a, b, 8 + int(a * b / 110) + dice.below(10), 1.6, 4.6)


def _site(plan: Plan, frame: Frame, a: float, b: float) -> None:
    """Bare ground: a building site or a quarry."""
    dice = plan.dice
    soil = plan.colour("bare", 8, 0.6)
    plan.part(frame.rect(-a, -b, a, b), GROUND, BARE, soil, Look(PATCH, 26, 6))
    for _ in range(4 + dice.below(8)):
        x, y = frame.at(dice.uniform(-a, a) * 0.85, dice.uniform(-b, b) * 0.85)
        blob = plan.blob(x, y, dice.uniform(2, 9) * frame.scale, 9, 0.35)
        plan.part(
            blob,
            GROUND,
            BARE,
            lit(soil, dice.uniform(0.8, 1.2)),
            Look(PATCH, 24),
            0,
            dice.uniform(0.8, 3),
            OFFSET_SHADOW,
        )
    for _ in range(dice.below(4)):
        vehicle(
            plan,
            frame.move(dice.uniform(-a, a) * 0.8, dice.uniform(-b, b) * 0.8).turn(
                dice.uniform(0, 6.28)
            ),
            "lorry",
        )


def _farm(plan: Plan, frame: Frame, a: float, b: float) -> None:
    dice = plan.dice
    _meadow(plan, frame, a, b)
    yard = min(18.0, b - 2)
    plan.part(
        frame.rect(-yard, -yard, yard, yard), GROUND, BARE, plan.colour("dirt"), Look(GRAIN, 16, 4)
    )
    for _ in range(2 + dice.below(3)):
        spot = frame.move(dice.uniform(-yard, yard), dice.uniform(-yard, yard))
        if dice.chance(0.4):
            spot = spot.turn(math.pi / 2)
        building(
            plan,
            spot,
            dice.uniform(14, 30),
            dice.uniform(9, 14),
            dice.uniform(5, 9),
            dice.pick(("gable", "sheet", "gable")),
        )
    if dice.chance(0.5):
        x, y = frame.at(dice.uniform(-yard, yard), dice.uniform(-yard, yard))
        tank(plan, x, y, dice.uniform(3, 5), frame)
    building(plan, frame.move(yard + 8, dice.uniform(-6, 6)), 12, 9, 6, "hip")
    vehicle(plan, frame.move(dice.uniform(-yard, yard), dice.uniform(-yard, yard)), "lorry")
    _scatter(plan, frame, min(a, yard + 12), min(b, yard + 12), 14)


_USES: dict[str, Callable[[Plan, Frame, float, float], None]] = {
    "crops": _crops,
    "meadow": _meadow,
    "woods": _woods,
    "farm": _farm,
    "houses": _houses,
    "flats": _flats,
    "sheds": _sheds,
    "tanks": _tanks,
    "lot": _lot_block,
    "courts": _courts,
    "park": _park,
    "site": _site,
}


# Features that cross a district ------------------------------------------------------------------


def _ribbon(spine: list[tuple[float, float]], half: float) -> list[tuple[float, float]]:
    """The outline of a strip of constant width along a line."""
    left, right = [], []
    for i, (u, v) in enumerate(spine):
        u0, v0 = spine[max(0, i - 1)]
        u1, v1 = spine[min(len(spine) - 1, i + 1)]
        norm = math.hypot(u1 - u0, v1 - v0) / half
        du, dv = (u1 - u0) / norm, (v1 - v0) / norm
        left.append((u - dv, v + du))
        right.append((u + dv, v - du))
    return left + right[::-1]


def _meander(
    plan: Plan, reach: float, offset: float, swing: float, wave: float
) -> list[tuple[float, float]]:
    """A winding line from ``u = -reach`` to ``u = reach`` near ``v = offset``."""
    dice = plan.dice
    p, q = dice.uniform(0, 6.28), dice.uniform(0, 6.28)
    count = max(16, int(2 * reach / 9))
    line = []
    for k in range(count + 1):
        u = -reach + 2 * reach * k / count
        line.append(
            (u, offset + swing * (math.sin(u / wave + p) + 0.5 * math.sin(2.3 * u / wave + q)))
        )
    return line


# Each takes the plan, axes, how far along u the view reaches, how far along u to go, the v it is
# near, and a list for what must be drawn after the blocks, to cover them.


def _river(plan: Plan, frame: Frame, reach: float, far: float, offset: float, late: Late) -> None:
    dice = plan.dice
    frame = frame.turn(dice.uniform(-0.5, 0.5))
    half = dice.uniform(7, 20)
    spine = _meander(plan, reach * 1.2, offset, dice.uniform(4, 16), dice.uniform(28, 60))
    bank = frame.poly(_ribbon(spine, half + dice.uniform(2, 7)))
    water = frame.poly(_ribbon(spine, half))
    plan.claim(bank)
    plan.claim(water, AFLOAT)
    sandy = dice.chance(0.5)
    plan.part(
        bank,
        WATERS,
        BARE if sandy else GRASS,
        plan.colour("sand" if sandy else "grass"),
        Look(PATCH, 18, 8),
    )
    colour = plan.colour("water", 8, 0.5)
    plan.part(water, WATERS, WATER, colour, _WATER)
    plan.part(frame.poly(_ribbon(spine, half * 0.6)), WATERS, WATER, lit(colour, 0.93), _WATER)
    for _ in range(dice.below(3) + (dice.chance(0.4))):
        u, v = dice.pick(spine)
        local = frame.move(u, v)
        ship(
            plan,
            local.turn(dice.uniform(-0.2, 0.2) + math.pi * dice.below(2)),
            dice.uniform(8, 24),
            wake=dice.chance(0.5),
        )
    for u, v in spine[:: 1 + dice.below(2)]:  # trees on the banks
        for side in (-1.0, 1.0):
            if dice.chance(0.45):
                x, y = frame.at(u + dice.uniform(-4, 4), v + side * (half + dice.uniform(5, 9)))
                tree(plan, x, y, dice.uniform(2, 4))


def _lake(plan: Plan, frame: Frame, reach: float, far: float, offset: float, late: Late) -> None:
    dice = plan.dice
    x, y = frame.at(offset, dice.uniform(-1, 1) * abs(offset))
    size = dice.uniform(34, 60) * frame.scale
    phase, lobes = dice.uniform(0, 6.28), dice.uniform(0.08, 0.2)
    shape, shore, deep = [], [], []
    for k in range(40):
        t = 2 * math.pi * k / 40
        r = size * (
            1
            + lobes * math.sin(2 * t + phase)
            + 0.6 * lobes * math.sin(3 * t + 2 * phase)
            + 0.02 * dice.uniform(-1, 1)
        )
        c, s = math.cos(t), math.sin(t)
        shape += [x + r * c, y + r * s]
        shore += [x + (r + 5 * frame.scale) * c, y + (r + 5 * frame.scale) * s]
        deep += [x + r * 0.75 * c, y + r * 0.75 * s]
    plan.claim(shore)
    plan.claim(shape, AFLOAT)
    colour = plan.colour("water", 10, 0.6)
    bank = dice.pick(("sand", "grass", "bare"))
    for _ in range(dice.below(4)):
        turn, r = dice.uniform(0, 6.28), dice.uniform(0, 0.7) * size
        spot = Frame(x + r * math.cos(turn), y + r * math.sin(turn), frame.c, frame.s)
        ship(plan, spot.turn(dice.uniform(0, 6.28)), dice.uniform(7, 13), wake=dice.chance(0.4))
    for k in range(40):
        if dice.chance(0.5):
            r = (6 + dice.uniform(0, 5)) * frame.scale
            t = 2 * math.pi * k / 40
            tree(
                plan,
                shape[2 * k] + r * math.cos(t),
                shape[2 * k + 1] + r * math.sin(t),
                dice.uniform(1.8, 4),
            )

    def draw() -> None:
        label = GRASS if bank == "grass" else BARE
        plan.part(shore, MARKS, label, plan.colour(bank), Look(PATCH, 18, 8))
        plan.part(shape, MARKS, WATER, lit(colour, 1.06), _WATER)
        plan.part(deep, MARKS, WATER, lit(colour, 0.94), _WATER)

    late.append(draw)


def _coast(plan: Plan, frame: Frame, reach: float, far: float, offset: float, late: Late) -> None:
    """Sea on the side of +v, a beach, and sometimes a pier and boats."""
    dice = plan.dice
    shore = _meander(plan, reach * 1.4, offset, dice.uniform(2, 9), dice.uniform(30, 70))
    back = [(reach * 1.4, far), (-reach * 1.4, far)]
    sand = dice.uniform(8, 26)

    def band(shift: float) -> list[float]:
        return frame.poly([(u, v + shift) for u, v in shore] + back)

    plan.claim(band(-sand))
    plan.claim(band(3.0), AFLOAT)
    for _ in range(dice.below(6)):
        u, v = dice.pick(shore)
        local = frame.move(u * 0.5, v + dice.uniform(12, 70))
        ship(plan, local.turn(dice.uniform(0, 6.28)), dice.uniform(7, 26), wake=dice.chance(0.5))
    sea, beach = plan.colour("sea", 8), plan.colour("sand", 8)
    pier = dice.chance(0.35)
    pier_u = dice.uniform(-0.3, 0.3) * reach
    pier_m = dice.uniform(25, 60)
    if pier:
        plan.claim(frame.rect(pier_u - 2, offset - 8, pier_u + 2, offset + pier_m))

    def draw() -> None:
        plan.part(band(-sand), MARKS, BARE, beach, Look(PATCH, 12, 4))
        plan.part(band(-sand * 0.25), MARKS, BARE, lit(beach, 0.86), Look(PATCH, 10))
        plan.part(band(0.0), MARKS, WATER, mix(sea, (226, 232, 232), 0.62), Look(RIPPLE, 26))
        plan.part(band(2.0), MARKS, WATER, mix(sea, beach, 0.35), _WATER)
        plan.part(band(7.0), MARKS, WATER, mix(sea, (220, 228, 228), 0.3), Look(RIPPLE, 30))
        plan.part(band(8.5), MARKS, WATER, mix(sea, beach, 0.16), _WATER)
        plan.part(band(24.0), MARKS, WATER, sea, _WATER)
        plan.part(band(55.0), MARKS, WATER, lit(sea, 0.88), _WATER)
        if pier:
            deck = frame.rect(pier_u - 1.6, offset - sand * 0.6, pier_u + 1.6, offset + pier_m)
            plan.part(
                deck,
                MARKS,
                PAVEMENT,
                plan.colour("dirt", 10),
                patterned(frame, SLABS, 2.0, 10, _CONCRETE),
                0,
                2.0,
                OFFSET_SHADOW,
            )

    late.append(draw)


def _harbor(plan: Plan, frame: Frame, reach: float, far: float, offset: float, late: Late) -> None:
    """A quay along u with water towards +v, jetties with boats or ships alongside."""
    dice = plan.dice
    apron = dice.uniform(10, 20)
    plan.claim(frame.rect(-far, offset - apron, far, far))
    plan.claim(frame.rect(-far, offset, far, far), AFLOAT)
    sea = plan.colour("sea", 8)
    stone = plan.colour("concrete", 8, 0.4)
    decks: list[list[float]] = []
    big = dice.chance(0.4)
    if big:
        length = dice.uniform(60, 100)
        u = -reach + dice.uniform(0, 40)
        while u < reach:
            local = frame.move(u, offset + length * 0.1 + 3)
            ship(plan, local.turn(math.pi * dice.below(2)), length * dice.uniform(0.75, 1.0))
            u += length + dice.uniform(8, 40)
        for _ in range(3):
            local = frame.move(dice.uniform(-1, 1) * reach * 0.6, offset + dice.uniform(35, 110))
            ship(
                plan, local.turn(dice.uniform(0, 6.28)), dice.uniform(9, 30), wake=dice.chance(0.6)
            )
    else:
        boat = dice.uniform(7, 13)
        pitch = 2 * boat + dice.uniform(9, 14)
        jetty = dice.uniform(40, 75)
        full = dice.uniform(0.45, 0.9)
        u = -reach + dice.uniform(0, pitch)
        while u < reach:
            deck = frame.rect(u - 1.2, offset - 1, u + 1.2, offset + jetty)
            decks.append(deck)
            v = offset + 6
            while v < offset + jetty - 2:
                for side in (-1.0, 1.0):
                    if dice.chance(full):
                        size = boat * dice.uniform(0.75, 1.0)
                        local = frame.move(u + side * (size / 2 + 2.0), v)
                        turn = 0.0 if dice.chance(0.5) else math.pi
                        ship(plan, local.turn(turn + dice.uniform(-0.04, 0.04)), size)
                v += boat * 0.36 + 1.6
            u += pitch
        ship(
            plan,
            frame.move(dice.uniform(-1, 1) * reach * 0.4, offset + jetty + 16).turn(
                dice.uniform(0, 6.28)
            ),
            boat,
            wake=True,
        )
    u = -reach
    stacks: list[tuple[list[float], Colour]] = []
    while u < reach:  # containers and goods on the quay, part of its pavement
        if big and dice.chance(0.5):
            colour = plan.vary(
                dice.pick(((150, 72, 56), (70, 96, 136), (150, 150, 146), (170, 130, 70))), 10
            )
            stacks.append((frame.rect(u, offset - apron + 2, u + 6, offset - apron + 4.6), colour))
        u += 7.5
    for _ in range(3 + dice.below(5)):
        spot = (dice.uniform(-reach, reach), offset - apron * dice.uniform(0.2, 0.5))
        late.append(lambda spot=spot: _parked_on_quay(plan, frame, *spot))  # type: ignore[misc]

    def draw() -> None:
        plan.part(frame.rect(-far, offset, far, far), MARKS, WATER, sea, _WATER)
        plan.part(frame.rect(-far, offset + 40, far, far), MARKS, WATER, lit(sea, 0.94), _WATER)
        quay = frame.rect(-far, offset - apron, far, offset)
        plan.part(
            quay,
            MARKS,
            PAVEMENT,
            stone,
            patterned(frame, SLABS, 7.0, 7, _CONCRETE),
            0,
            2.0,
            OFFSET_SHADOW,
        )
        plan.part(
            frame.rect(-far, offset - 1.0, far, offset),
            MARKS,
            PAVEMENT,
            lit(stone, 1.12),
            _CONCRETE,
            0,
            2.0,
        )
        for xy, colour in stacks:
            plan.part(xy, MARKS, PAVEMENT, colour, Look(SMOOTH, 5), 0, 4.5, OFFSET_SHADOW)
        for deck in decks:
            plan.part(
                deck, MARKS, PAVEMENT, plan.colour("dirt", 6), _CONCRETE, 0, 1.0, OFFSET_SHADOW
            )

    late.insert(0, draw)


def _parked_on_quay(plan: Plan, frame: Frame, u: float, v: float) -> None:
    plan.claim(frame.rect(u - 8, v - 3, u + 8, v + 3), 0)
    vehicle(
        plan, frame.move(u, v).turn(math.pi * plan.dice.below(2)), plan.dice.pick(("car", "lorry"))
    )


def _highway(plan: Plan, frame: Frame, reach: float, far: float, offset: float, late: Late) -> None:
    """Two carriageways with a green or paved median, gently curved."""
    dice = plan.dice
    frame = frame.turn(dice.uniform(-0.4, 0.4))
    lanes = 2 + dice.below(2)
    carriage = 3.6 * lanes
    median = dice.uniform(1.5, 6)
    half = carriage + median / 2 + 2
    spine = _meander(plan, reach * 1.3, offset, dice.uniform(0, 7), dice.uniform(90, 160))
    plan.claim(frame.poly(_ribbon(spine, half + 5)))
    asphalt = plan.colour("asphalt", 8, 0.4)

    def shifted(v: float) -> list[tuple[float, float]]:
        return [(p, q + v) for p, q in spine]

    def draw() -> None:
        plan.part(
            frame.poly(_ribbon(spine, half + 5)),
            MARKS,
            GRASS,
            plan.colour("grass", 8, 0.4),
            _MEADOW,
        )
        for side in (-1.0, 1.0):
            middle = side * (median / 2 + carriage / 2)
            plan.part(
                frame.poly(_ribbon(shifted(middle), carriage / 2 + 1.8)),
                MARKS,
                ROAD,
                asphalt,
                _TARMAC,
            )
            width = max(0.15, 0.3 * plan.gsd_m)
            for edge in (-1.0, 1.0):
                plan.part(
                    frame.poly(_ribbon(shifted(middle + edge * carriage / 2), width)),
                    MARKS,
                    ROAD,
                    _line_colour(asphalt),
                    Look(SMOOTH, 3),
                )
            for lane in range(1, lanes):
                look = patterned(frame, DASHES, 12.0, 26, Look(SMOOTH, 3))
                line = shifted(middle - carriage / 2 + 3.6 * lane)
                plan.part(
                    frame.poly(_ribbon(line, width)), MARKS, ROAD, _line_colour(asphalt, 0.42), look
                )
        plan.claim(frame.poly(_ribbon(spine, half)), 0)
        for side in (-1.0, 1.0):
            for lane in range(lanes):
                k = dice.below(5)
                while k < len(spine) - 1:
                    (p, q), (r, s) = spine[k], spine[k + 1]
                    heading = math.atan2(s - q, r - p) + (math.pi if side > 0 else 0.0)
                    v = q + side * (median / 2 + 3.6 * lane + 1.8)
                    kind = "car" if dice.chance(0.8) else "lorry"
                    vehicle(plan, frame.move(p, v), kind, heading)
                    k += 2 + dice.below(6)
        if dice.chance(0.3):
            _overpass(
                plan,
                frame.move(dice.uniform(-0.3, 0.3) * reach, offset).turn(math.pi / 2),
                half + 14,
            )

    late.append(draw)


def _overpass(plan: Plan, frame: Frame, reach: float) -> None:
    asphalt = plan.colour("asphalt", 8, 0.6)
    plan.part(
        frame.rect(-reach, -5.2, reach, 5.2),
        MARKS,
        ROAD,
        lit(asphalt, 1.15),
        _CONCRETE,
        0,
        6.0,
        OFFSET_SHADOW,
    )
    plan.part(frame.rect(-reach, -4.4, reach, 4.4), MARKS, ROAD, asphalt, _TARMAC, 0, 6.0)
    _dashes(plan, frame, 2 * reach, 0.0, asphalt)


def _airport(plan: Plan, frame: Frame, reach: float, far: float, offset: float, late: Late) -> None:
    """A runway or taxiway, and an apron with aircraft towards +v."""
    dice = plan.dice
    stone = plan.colour("concrete", 8, 0.5)
    tarmac = plan.colour("asphalt", 8, 0.5)
    jet = dice.chance(0.6)
    length = dice.uniform(24, 42) if jet else dice.uniform(8, 13)
    pitch = length * (1.15 if jet else 1.45)
    strip = dice.uniform(9, 14)
    deep = length * 1.5 + 10
    start = offset + strip + dice.uniform(3, 12)
    rows = 1 if jet else 1 + dice.below(3)
    end = start + deep + (rows - 1) * length * 1.7
    keep = frame.rect(-far, offset - strip - 3, far, end + 2)
    edge = mix(tarmac, (206, 170, 60), 0.6)
    heading = dice.pick((-1.0, 1.0)) * math.pi / 2
    for row in range(rows):
        u = -reach + dice.uniform(0, pitch)
        v = end - length * (0.7 + 1.7 * row)
        while u < reach:
            if dice.chance(0.78):
                size = length * dice.uniform(0.85, 1.0)
                aircraft(plan, frame.move(u, v).turn(heading + dice.uniform(-0.08, 0.08)), size)
            u += pitch
    if dice.chance(0.45):  # one on its way
        aircraft(
            plan,
            frame.move(dice.uniform(-0.3, 0.3) * reach, offset).turn(math.pi * dice.below(2)),
            length * 0.9,
        )
    for _ in range(4 + dice.below(6)):
        spot = frame.move(dice.uniform(-reach, reach), end - dice.uniform(1.5, 5))
        vehicle(plan, spot.turn(math.pi / 2 * dice.below(4)), dice.pick(("car", "lorry")))
    plan.claim(keep)
    terminal = dice.chance(0.6)

    def draw() -> None:
        plan.part(
            frame.rect(-far, offset - strip - 3, far, end + 1),
            MARKS,
            GRASS,
            plan.colour("grass", 8),
            _MEADOW,
        )
        plan.part(
            frame.rect(-far, offset - strip, far, offset + strip), MARKS, PAVEMENT, tarmac, _TARMAC
        )
        look = patterned(frame, DASHES, 22.0, 26, Look(SMOOTH, 3))
        plan.part(
            frame.rect(-far, offset - 0.45, far, offset + 0.45),
            MARKS,
            PAVEMENT,
            _line_colour(tarmac, 0.45),
            look,
        )
        for side in (-1.0, 1.0):
            v = offset + side * (strip - 1.2)
            plan.part(
                frame.rect(-far, v - 0.3, far, v + 0.3),
                MARKS,
                PAVEMENT,
                _line_colour(tarmac),
                Look(SMOOTH, 3),
            )
        apron = frame.rect(-far, start, far, end)
        plan.part(apron, MARKS, PAVEMENT, stone, patterned(frame, SLABS, 7.5, 8, _CONCRETE))
        for u in (-0.3 * reach, 0.35 * reach):
            plan.part(frame.rect(u - 5, offset, u + 5, start + 1), MARKS, PAVEMENT, tarmac, _TARMAC)
            plan.part(
                frame.rect(u - 0.2, offset, u + 0.2, start + 6),
                MARKS,
                PAVEMENT,
                edge,
                Look(SMOOTH, 3),
            )
        plan.part(
            frame.rect(-far, start + 4, far, start + 4.4), MARKS, PAVEMENT, edge, Look(SMOOTH, 3)
        )
        if terminal:
            u = dice.uniform(-0.5, 0.5) * reach
            local = frame.move(u, end + 13)
            plan.claim(local.rect(-30, -9, 30, 9), 0)
            building(plan, local, 56, 16, 10, "flat")

    late.append(draw)


_FEATURES: dict[str, Callable[[Plan, Frame, float, float, float, Late], None]] = {
    "river": _river,
    "lake": _lake,
    "coast": _coast,
    "harbor": _harbor,
    "highway": _highway,
    "airport": _airport,
}
