import hashlib

import numpy as np
import pytest

from swath.core.data.scenes import CLASSES, DOMAINS, KINDS, OBJECT_CLASSES, VERSION, Scene, render
from swath.core.errors import DataError

FROZEN = {
    "temperate": ("6f8eda5f5c375fd2", "538c97704367e441", "633094fc3b7575dc"),
    "arid": ("f0298334d4f2be09", "679af9ce498a0dfe", "58f79de2a1d2e187"),
    "coastal": ("4cd9de7b2c268fab", "1f097a73c37916d1", "83085216cadbb317"),
    "urban": ("4c4fc8a7eff19948", "420e209c5576a8a1", "fa03cd0d3d09a095"),
    "winter": ("3071cb72e5932703", "30f24a9f8505da05", "9230d9c2e366242c"),
}
"""Beginnings of the SHA-256 of image, mask and words of seed 2026 at 256 px in scenes-v1."""


def digest(scene: Scene) -> str:
    """Image and mask; the words and boxes follow from the same plan."""
    return hashlib.sha256(scene.image.tobytes() + scene.mask.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("domain", list(FROZEN))
def test_scenes_v1_is_frozen_in_every_process(domain: str) -> None:
    assert VERSION == "scenes-v1"
    scene = render(2026, 256, domain)
    words = repr((scene.objects, scene.caption, scene.expressions))
    found = [
        hashlib.sha256(data).hexdigest()[:16]
        for data in (scene.image.tobytes(), scene.mask.tobytes(), words.encode())
    ]
    assert tuple(found) == FROZEN[domain]


def test_a_scene_does_not_depend_on_what_was_rendered_before() -> None:
    first = digest(render(3, 64))
    render(4, 64, "winter")
    assert digest(render(3, 64)) == first


def test_seeds_domains_and_kinds_give_different_scenes() -> None:
    found = {digest(render(seed, 64, domain)) for seed in (1, 2) for domain in DOMAINS}
    found |= {digest(render(1, 64, kind=kind)) for kind in KINDS}
    assert len(found) >= 2 * len(DOMAINS) + len(KINDS) - 1


def test_every_instance_lies_in_its_box_and_has_its_class(scenes: list[Scene]) -> None:
    for scene in scenes:
        for thing in scene.objects:
            rows, cols = np.nonzero(scene.instances == thing.id)
            assert len(rows) == thing.pixels
            name = OBJECT_CLASSES[thing.label]
            assert (scene.mask[rows, cols] == CLASSES.index(name)).all()
            cx, cy, w, h, angle = thing.box
            x, y = cols + 0.5 - cx, rows + 0.5 - cy
            u = x * np.cos(angle) + y * np.sin(angle)
            v = -x * np.sin(angle) + y * np.cos(angle)
            # half a pixel to the centre of a pixel that is touched, and a pixel of rasterising
            assert np.abs(u).max() <= w / 2 + 1.2, (scene.domain, scene.seed, thing)
            assert np.abs(v).max() <= h / 2 + 1.2, (scene.domain, scene.seed, thing)


def test_objects_that_show_whole_fill_their_box(scenes: list[Scene]) -> None:
    """A convex object's outermost pixels reach all four sides of its box."""
    checked = 0
    for scene in scenes:
        for thing in scene.objects:
            cx, cy, w, h, angle = thing.box
            reach = np.hypot(w, h) / 2 + 2
            inside = reach < cx < 192 - reach and reach < cy < 192 - reach
            if not inside or OBJECT_CLASSES[thing.label] not in ("court", "tank", "ship"):
                continue
            if thing.pixels < 0.6 * w * h:  # a tree stands over it
                continue
            rows, cols = np.nonzero(scene.instances == thing.id)
            x, y = cols + 0.5 - cx, rows + 0.5 - cy
            u = x * np.cos(angle) + y * np.sin(angle)
            v = -x * np.sin(angle) + y * np.cos(angle)
            slack = 2.5 + 0.12 * max(w, h)
            assert u.max() - u.min() >= w - slack
            assert v.max() - v.min() >= h - slack
            checked += 1
    assert checked > 30


def test_every_class_object_and_kind_occurs(scenes: list[Scene]) -> None:
    pixels = sum(np.bincount(scene.mask.ravel(), minlength=len(CLASSES)) for scene in scenes)
    assert (np.asarray(pixels) > 0).all()
    assert {t.label for s in scenes for t in s.objects} == set(range(len(OBJECT_CLASSES)))
    assert len({scene.kind for scene in scenes}) >= 10


def test_domains_differ_in_colour() -> None:
    means = {
        domain: np.mean([render(s, 96, domain, "farmland").image.mean((0, 1)) for s in range(6)], 0)
        for domain in ("temperate", "arid", "winter")
    }
    for a, b in (("temperate", "arid"), ("temperate", "winter"), ("arid", "winter")):
        assert np.abs(means[a] - means[b]).max() > 12


def test_the_spread_changes_how_scenes_are_lit_and_nothing_else() -> None:
    def brightness(spread: float | None) -> list[float]:
        return [float(render(s, 64, kind="forest", spread=spread).image.mean()) for s in range(12)]

    deviations = [np.std(brightness(spread)) for spread in (0.0, 1.0, 2.0)]
    print("deviation of brightness at spread 0, 1, 2:", np.round(deviations, 1))
    assert deviations[0] < deviations[1] < deviations[2]
    assert brightness(0.5) == brightness(None)
    plain, hard = render(3, 96), render(3, 96, spread=1.0)
    assert (plain.mask == hard.mask).all()
    assert (plain.boxes == hard.boxes).all()
    assert (plain.image != hard.image).any()


def test_a_scene_larger_than_a_painted_window_has_no_seam() -> None:
    scene = render(21, 600, kind="farmland")
    steps = np.abs(np.diff(scene.image.astype(int).sum(-1), axis=1)).mean(0)
    assert steps[495] < 3 * np.median(steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "temprate"}, "did you mean 'temperate'"),
        ({"size": 8}, "size=8"),
        ({"seed": -1}, "seed=-1"),
        ({"kind": "harbour"}, "did you mean 'harbor'"),
        ({"spread": -0.5}, "spread of scenes must be 0 or more"),
    ],
)
def test_refuses_what_it_does_not_know(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        render(**({"seed": 0} | arguments))  # type: ignore[arg-type]
