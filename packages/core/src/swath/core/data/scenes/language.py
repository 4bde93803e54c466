"""Captions, and referring expressions that single out exactly one object."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from swath.core.data.scenes.domains import CLASSES
from swath.core.data.scenes.plan import Dice

AREA_RATIO = 1.25
"""How much larger than any other the largest must be; likewise for the smallest."""

MARGIN_PX = 8.0
"""How much clearer than any other object the described one must satisfy a position, in pixels."""

_AXES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
_DIRECTIONS = tuple(_AXES)
_EXTREMES = (("leftmost", "rightmost"), ("topmost", "bottommost"))
_CELLS = {
    "top left": (0, 0),
    "top": (1, 0),
    "top right": (2, 0),
    "left": (0, 1),
    "centre": (1, 1),
    "right": (2, 1),
    "bottom left": (0, 2),
    "bottom": (1, 2),
    "bottom right": (2, 2),
}


class SceneObject(NamedTuple):
    """An object as it can be seen.

    Attributes:
        id: Its value in `Scene.instances`, from 1.
        label: Index in `OBJECT_CLASSES`.
        noun: What sentences call it: ``"vehicle"``, ``"tennis court"``, ...
        colour: Name of its paint.
        box: ``(cx, cy, w, h, angle)``: pixels and radians, clockwise positive on screen; w along
            the object. It goes on beyond the scene's border where the object does.
        pixels: How many pixels show it.
    """

    id: int
    label: int
    noun: str
    colour: str
    box: tuple[float, float, float, float, float]
    pixels: int


class Expression(NamedTuple):
    """A sentence about one object.

    Attributes:
        text: ``"the red vehicle left of the largest building"``.
        object: Id of the object it means.
        form: What it says, as data: ``{"kind": k, "noun": n, "colour": c or None, ...}`` with
            ``"extreme"`` (``largest``, ``smallest``, ``leftmost``, ...), ``"cell"`` (``top left``,
            ...), or ``"relation"`` and ``"anchor"`` (another form).
    """

    text: str
    object: int
    form: dict[str, Any]


def expressions(
    objects: Sequence[SceneObject], size: int, dice: Dice, limit: int = 16
) -> tuple[Expression, ...]:
    """Sentences that hold for exactly one of the objects each, by a margin.

    Args:
        objects: All objects of the scene.
        size: Side of the scene in pixels.
        dice: Chooses which objects relations are tried for.
        limit: Number of relations at most; the other kinds are few by themselves.

    Returns:
        Kinds ``unique``, ``colour``, ``size``, ``extreme``, ``position``, ``relation``; with
        several objects of a noun, colours narrow down the last four where that is needed.
    """
    groups: dict[tuple[str, str | None], list[SceneObject]] = defaultdict(list)
    for thing in objects:
        groups[thing.noun, None].append(thing)
        if thing.colour:
            groups[thing.noun, thing.colour].append(thing)
    # the order of each group along x and y, with the positions themselves for bisection
    ordered = {
        key: [sorted(members, key=lambda thing: thing.box[axis]) for axis in (0, 1)]
        for key, members in groups.items()
    }
    along = {
        key: [[thing.box[axis] for thing in ranked] for axis, ranked in enumerate(both)]
        for key, both in ordered.items()
    }
    cells = _cells(objects, size)
    found: list[Expression] = []
    for (noun, colour), members in groups.items():
        if colour is None:
            if len(members) == 1:
                found.append(_say("unique", noun, None, members[0]))
                continue
        elif len(members) == len(groups[noun, None]):
            continue  # the colour says nothing
        elif len(members) == 1:
            found.append(_say("colour", noun, colour, members[0]))
            continue
        found += _sizes(noun, colour, members)
        found += _extremes(noun, colour, ordered[noun, colour])
        found += _positions(noun, colour, members, cells)
    anchors = [e for e in found if e.form["kind"] in ("unique", "colour", "size")]
    by_id = {thing.id: thing for thing in objects}
    relations: list[Expression] = []
    keys = list(groups)
    for _ in range(3 * limit if anchors else 0):
        if len(relations) == limit:
            break
        noun, colour = dice.pick(keys)
        anchor = dice.pick(anchors)
        axis, sign = _AXES[relation := dice.pick(_DIRECTIONS)]
        here = by_id[anchor.object].box[axis]
        ranked, positions = ordered[noun, colour][axis], along[noun, colour][axis]
        if sign > 0:
            inside, target = len(ranked) - bisect_right(positions, here), ranked[-1]
        else:
            inside, target = bisect_left(positions, here), ranked[0]
        if inside != 1 or sign * (target.box[axis] - here) < MARGIN_PX:
            continue
        if len(ranked) - (by_id[anchor.object] in ranked) < 2:
            continue
        expression = _say("relation", noun, colour, target, relation=relation, anchor=anchor.form)
        if expression not in relations:
            relations.append(expression)
    return (*found, *relations)


def _say(kind: str, noun: str, colour: str | None, target: SceneObject, **more: Any) -> Expression:
    form = {"kind": kind, "noun": noun, "colour": colour, **more}
    return Expression(phrase(form), target.id, form)


def phrase(form: dict[str, Any]) -> str:
    """The English of a form."""
    words = ["the"]
    if "extreme" in form:
        words.append(form["extreme"])
    if form["colour"]:
        words.append(form["colour"])
    words.append(form["noun"])
    if "cell" in form:
        where = form["cell"]
        words.append("in the centre" if where == "centre" else f"at the {where}")
    if "anchor" in form:
        words += [form["relation"], phrase(form["anchor"])]
    return " ".join(words)


def _sizes(noun: str, colour: str | None, members: list[SceneObject]) -> list[Expression]:
    ranked = sorted(members, key=lambda thing: thing.pixels)
    found = []
    if ranked[-1].pixels >= AREA_RATIO * ranked[-2].pixels:
        found.append(_say("size", noun, colour, ranked[-1], extreme="largest"))
    if ranked[1].pixels >= AREA_RATIO * ranked[0].pixels:
        found.append(_say("size", noun, colour, ranked[0], extreme="smallest"))
    return found


def _extremes(noun: str, colour: str | None, ordered: list[list[SceneObject]]) -> list[Expression]:
    found = []
    for axis, (lowest, highest) in enumerate(_EXTREMES):
        ranked = ordered[axis]
        if ranked[1].box[axis] - ranked[0].box[axis] >= MARGIN_PX:
            found.append(_say("extreme", noun, colour, ranked[0], extreme=lowest))
        if ranked[-1].box[axis] - ranked[-2].box[axis] >= MARGIN_PX:
            found.append(_say("extreme", noun, colour, ranked[-1], extreme=highest))
    return found


def _cells(
    objects: Sequence[SceneObject], size: int
) -> dict[int, tuple[list[tuple[int, int]], tuple[int, int] | None]]:
    """By id, the ninths of the scene that an object is in or near, and the one it is clearly in."""
    half = MARGIN_PX / 2
    bounds = [(k, k * size / 3, k * size / 3 + size / 3) for k in range(3)]
    cells = {}
    for thing in objects:
        x, y = thing.box[:2]
        near = [
            (column, row)
            for column, left, right in bounds
            if left - half < x < right + half
            for row, top, bottom in bounds
            if top - half < y < bottom + half
        ]
        clear = None
        if len(near) == 1:
            (column, row) = near[0]
            (_, left, right), (_, top, bottom) = bounds[column], bounds[row]
            if left + half <= x <= right - half and top + half <= y <= bottom - half:
                clear = near[0]
        cells[thing.id] = near, clear
    return cells


def _positions(
    noun: str,
    colour: str | None,
    members: list[SceneObject],
    cells: dict[int, tuple[list[tuple[int, int]], tuple[int, int] | None]],
) -> list[Expression]:
    """The only one in a ninth of the scene, clear of its border; the others clear of it too."""
    near = defaultdict(list)
    for thing in members:
        for cell in cells[thing.id][0]:
            near[cell].append(thing)
    return [
        _say("position", noun, colour, near[cell][0], cell=name)
        for name, cell in _CELLS.items()
        if len(near[cell]) == 1 and cells[near[cell][0].id][1] == cell
    ]


_PLACES = {
    "farmland": "farmland",
    "forest": "a forest",
    "residential": "a residential area",
    "industrial": "an industrial area",
    "commercial": "a commercial area with parking",
    "sports": "a sports ground",
    "airport": "an airport",
    "harbor": "a harbor",
    "river": "a river valley",
    "lake": "a lake",
    "coast": "a coast",
    "highway": "a highway",
}
_GROUND = {
    "grass": "grass",
    "field": "fields",
    "tree": "trees",
    "water": "water",
    "bare": "bare ground",
    "road": "roads",
    "pavement": "paved ground",
}
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PLURALS = {"aircraft": "aircraft"}


def describe(
    kind: str, season: str, mask: npt.NDArray[np.uint8], objects: Sequence[SceneObject], dice: Dice
) -> str:
    """A caption: the place, the objects by number, what covers most of the ground, the season.

    Every statement is counted from the labels.
    """
    counted = cv2.calcHist([mask], [0], None, [len(CLASSES)], [0, len(CLASSES)]).ravel()
    cover = (counted.astype(np.float64) / mask.size).tolist()
    counts = Counter(thing.noun for thing in objects).most_common(3)
    things = []
    for noun, count in counts:
        many = _NUMBERS[count] if count < len(_NUMBERS) else dice.pick(("many", "more than ten"))
        things.append(f"{many} {noun if count == 1 else _PLURALS.get(noun, noun + 's')}")
    ranked = sorted(_GROUND, key=lambda name: -cover[CLASSES.index(name)])
    ground = [_GROUND[name] for name in ranked[:2] if cover[CLASSES.index(name)] >= 0.1]
    place, among = _PLACES[kind], _join(ground)
    opening = dice.pick(
        (
            f"An aerial view of {place}",
            f"{place[0].upper()}{place[1:]}",
            f"{place[0].upper()}{place[1:]} seen from above",
        )
    )
    text = f"{opening} in {season}"
    if things:
        text += f" with {_join(things)}"
    if among:
        text += f", mostly {among}" if not things else f" among {among}"
    return text + "."


def _join(items: Sequence[str]) -> str:
    return (
        items[0]
        if len(items) == 1
        else ", ".join(items[:-1]) + " and " + items[-1]
        if items
        else ""
    )
