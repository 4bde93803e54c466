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
