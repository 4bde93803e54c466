import cv2
import numpy as np

from swath.refseg.postprocess import inside_oriented


def test_what_lies_beyond_the_border_does_not_keep_a_box_from_being_inside() -> None:
    inner = np.array([-3.0, 2, 4, 2, 4, 5, -3, 5, 1])
    outer = np.array([0.0, 0, 8, 0, 8, 8, 0, 8, 1])
    assert inside_oriented(inner, outer)
    assert not inside_oriented(outer, inner)
    inner[[2, 4]] = 10
    assert not inside_oriented(inner, outer)


def test_a_pixel_at_the_corner_is_inside_anything() -> None:
    pixel = np.zeros(9)
    assert inside_oriented(pixel, pixel)


def test_boxes_are_inside_where_their_drawings_are() -> None:
    rng = np.random.default_rng(0)
    rectangles = [
        (rng.uniform(-5, 25, 2), rng.uniform(1, 25, 2), float(rng.uniform(0, 90)))
        for _ in range(40)
    ]
    quads = [cv2.boxPoints(rectangle).astype(np.int32) for rectangle in rectangles]
    answers = []
    for inner in quads:
        for outer in quads:
            width, height = np.maximum(inner, outer).max(0).clip(min=1)
            drawn = [
                cv2.fillPoly(np.zeros((height, width), np.uint8), [q], 1) for q in (inner, outer)
            ]
            answers.append(bool((drawn[0] <= drawn[1]).all()))
            assert inside_oriented(inner.ravel(), outer.ravel()) == answers[-1]
    assert 40 < sum(answers) < len(answers)
