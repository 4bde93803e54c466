from typing import Any

import numpy as np

from swath.core.data.scenes import Expression, Scene, SceneObject

MARGIN_PX, AREA_RATIO = 6.0, 1.25
AXIS = {"left of": 0, "right of": 0, "above": 1, "below": 1}
SIGN = {"left of": -1, "right of": 1, "above": -1, "below": 1}


def matches(form: dict[str, Any], scene: Scene, slack: float) -> list[int]:
    """Ids of the objects a form holds for; ``slack`` > 0 also takes what nearly satisfies it."""
    size = scene.mask.shape[0]
    named = [
        o for o in scene.objects if o.noun == form["noun"] and form["colour"] in (None, o.colour)
    ]

    def holds(o: SceneObject) -> bool:
        others = [p for p in named if p is not o]
        if "extreme" in form:
            word = form["extreme"]
            if word == "largest":
                return all(o.pixels * (AREA_RATIO if slack else 1) > p.pixels for p in others)
            if word == "smallest":
                return all(p.pixels * (AREA_RATIO if slack else 1) > o.pixels for p in others)
            axis = 0 if word in ("leftmost", "rightmost") else 1
            sign = -1 if word in ("leftmost", "topmost") else 1
            return all(sign * (o.box[axis] - p.box[axis]) > -slack for p in others)
        if "cell" in form:
            words = form["cell"].split()
            column = 0 if "left" in words else 2 if "right" in words else 1
            row = 0 if "top" in words else 2 if "bottom" in words else 1
            return all(
                k * size / 3 - slack / 2 < value < (k + 1) * size / 3 + slack / 2
                for k, value in ((column, o.box[0]), (row, o.box[1]))
            )
        if "anchor" in form:
            (anchor,) = matches(form["anchor"], scene, 0.0)
            if o.id == anchor:
                return False
            relation = form["relation"]
            here = scene.objects[anchor - 1].box[AXIS[relation]]
            # nothing may be on the wrong side by less than nothing; the target is clear of it
            return SIGN[relation] * (o.box[AXIS[relation]] - here) > 0
        return True

    return [o.id for o in named if holds(o)]


def test_every_expression_holds_for_its_object_alone_even_with_slack(scenes: list[Scene]) -> None:
    count = 0
    for scene in scenes:
        for expression in scene.expressions:
            assert matches(expression.form, scene, 0.0) == [expression.object], expression
            assert matches(expression.form, scene, MARGIN_PX) == [expression.object], expression
            count += 1
    assert count > 5 * len(scenes)


def test_a_relation_is_clear_by_the_margin(scenes: list[Scene]) -> None:
    for scene in scenes:
        for e in scene.expressions:
            if e.form["kind"] == "relation":
                (anchor,) = matches(e.form["anchor"], scene, 0.0)
                axis, sign = AXIS[e.form["relation"]], SIGN[e.form["relation"]]
                target, other = scene.objects[e.object - 1], scene.objects[anchor - 1]
                assert sign * (target.box[axis] - other.box[axis]) >= MARGIN_PX


def test_all_kinds_of_expressions_occur(scenes: list[Scene]) -> None:
    kinds = {e.form["kind"] for scene in scenes for e in scene.expressions}
    assert kinds == {"unique", "colour", "size", "extreme", "position", "relation"}


def test_a_sentence_names_what_its_form_says(scenes: list[Scene]) -> None:
    def words(form: dict[str, Any]) -> list[str]:
        own = [form["noun"], form["colour"], form.get("extreme"), form.get("relation")]
        return [w for w in own if w] + (words(form["anchor"]) if "anchor" in form else [])

    every = [e for scene in scenes for e in scene.expressions]
    assert all(word in e.text for e in every for word in words(e.form))


def test_no_sentence_is_given_twice_in_a_scene(scenes: list[Scene]) -> None:
    for scene in scenes:
        texts = [e.text for e in scene.expressions]
        assert len(set(texts)) == len(texts)


def test_captions_count_what_is_there(scenes: list[Scene]) -> None:
    numbers = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    checked = 0
    for scene in scenes:
        words = scene.caption.rstrip(".").replace(",", "").split()
        for before, number, noun in zip(words, words[1:], words[2:], strict=False):
            single = noun.removesuffix("s")
            if before != "than" and number in numbers and single in ("vehicle", "building", "ship"):
                assert numbers.index(number) == sum(o.noun == single for o in scene.objects)
                checked += 1
    assert checked > 20


def test_expressions_are_plain_data(scenes: list[Scene]) -> None:
    expression = next(e for scene in scenes for e in scene.expressions)
    assert isinstance(expression, Expression)
    assert isinstance(expression.form, dict)
    assert not isinstance(expression.object, np.integer)
