"""Names of pixels, and what crops of them show."""

import numpy as np
import pytest

from swath.core.data.scenes import CLASSES, render
from swath.core.errors import DataError
from swath.ovseg.scenes import NAMES, SEEN, TAUGHT, UNMASKED, UNSEEN, NamedCrops, captions_of, named


def test_a_pixel_has_the_name_of_its_thing_or_ground() -> None:
    scene = render(5, 192, "coastal", "harbor")
    names = named(scene, NAMES)
    checked = 0
    for thing in scene.objects:
        name = f"{thing.colour} {thing.noun.split()[-1]}"
        want = NAMES.index(name) if name in NAMES else 255
        assert (names[scene.instances == thing.id] == want).all(), name
        checked += want != 255
    assert checked > 3
    ground = scene.instances == 0
    for mask, named_too in (("water", True), ("pavement", True), ("bare", False), ("ship", False)):
        there = names[ground & (scene.mask == CLASSES.index(mask))]
        assert (there == (NAMES.index(mask) if named_too else 255)).all()


@pytest.mark.parametrize(("kept", "others"), [(UNSEEN, SEEN), (UNMASKED, TAUGHT)])
def test_one_colour_of_each_noun_is_kept_back_and_others_show_both_words(
    kept: tuple[str, ...], others: tuple[str, ...]
) -> None:
    assert not {*kept} & {*others}
    assert len({name.split()[0] for name in kept}) == len(kept)
    assert len({name.split()[1] for name in kept}) == len(kept)
    for name in kept:
        _, noun, colour = captions_of(name)
        assert any(noun in captions_of(other) for other in others)
        assert any(colour in captions_of(other) for other in others)


def test_things_are_about_as_large_whatever_they_are() -> None:
    crops = NamedCrops(64, 64, seed=3)
    shares = {
        NAMES[s.targets["label"]]: float(
            (np.asarray(s.targets["mask"]) == s.targets["label"]).mean()
        )
        for s in crops
        if " " in NAMES[s.targets["label"]]
    }
    print(f"share of the crop: {min(shares.values()):.2f} to {max(shares.values()):.2f}")
    assert 0.1 < float(np.median(list(shares.values()))) < 0.4


def test_captions_speak_of_what_a_crop_shows() -> None:
    crops = NamedCrops(48, 64, seed=3, classes=SEEN)
    things, centred = 0, 0
    for index in range(64):
        sample = crops[index]
        mask, label = np.asarray(sample.targets["mask"]), sample.targets["label"]
        assert sample.image.shape == (3, 48, 48)
        assert ((mask < len(SEEN)) | (mask == 255)).all()
        assert (mask == label).any()
        large = {name for i, name in enumerate(SEEN) if (mask == i).mean() >= 0.25}
        want = {c for name in large | {SEEN[label]} for c in captions_of(name)}
        assert set(sample.targets["captions"]) == want
        things += " " in SEEN[label]
        centred += mask[24, 24] == label
    print(f"for an object: {things} of 64; in the middle: {centred}")
    assert things > 20
    assert centred < 60


def test_a_crop_depends_on_its_number_alone() -> None:
    one, other = NamedCrops(48, 40, seed=1), NamedCrops(48, 40, seed=1)
    first = one[17]
    other[3]
    again = other[17]
    assert first.meta == again.meta
    assert bool((first.image == again.image).all())
    assert first.targets["captions"] == again.targets["captions"]
    different = NamedCrops(48, 40, seed=2)[17]
    assert not bool((first.image == different.image).all())


def test_what_has_no_name_is_said_so() -> None:
    with pytest.raises(DataError, match="nothing in the scenes is called 'red bulding'; did you"):
        NamedCrops(classes=("red bulding",))
    with pytest.raises(DataError, match="1 to 128 px, not 129"):
        NamedCrops(size=129)
