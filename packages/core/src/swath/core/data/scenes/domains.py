"""What scenes are made of: classes, class sets, colours, and the domains."""

from collections.abc import Mapping
from dataclasses import dataclass

Colour = tuple[int, int, int]

CLASSES: tuple[str, ...] = (
    "grass",
    "field",
    "tree",
    "water",
    "bare",
    "road",
    "pavement",
    "building",
    "court",
    "tank",
    "vehicle",
    "ship",
    "aircraft",
)
"""The semantic classes, in index order; every pixel of a scene has one of them."""

PALETTE: tuple[Colour, ...] = (
    (158, 202, 110),
    (232, 200, 104),
    (38, 115, 58),
    (54, 118, 190),
    (180, 144, 110),
    (96, 96, 104),
    (190, 186, 196),
    (208, 82, 66),
    (232, 132, 60),
    (130, 92, 160),
    (250, 240, 60),
    (250, 110, 200),
    (90, 230, 230),
)
"""RGB for display, one per class."""

OBJECT_CLASSES: tuple[str, ...] = ("building", "court", "tank", "vehicle", "ship", "aircraft")
"""The classes that come in instances; `Scene.boxes` has labels in this order."""

(
    GRASS,
    FIELD,
    TREE,
    WATER,
    BARE,
    ROAD,
    PAVEMENT,
    BUILDING,
    COURT,
    TANK,
    VEHICLE,
    SHIP,
    AIRCRAFT,
) = range(len(CLASSES))

KINDS: tuple[str, ...] = (
    "farmland",
    "forest",
    "residential",
    "industrial",
    "commercial",
    "sports",
    "airport",
    "harbor",
    "river",
    "lake",
    "coast",
    "highway",
)
"""The scene classes, in index order."""


@dataclass(frozen=True)
class ClassSet:
    """Another data set's view of the same pixels.

    Attributes:
        classes: Class names in index order.
        palette: RGB per class.
        groups: For every class, the names out of `CLASSES` that it holds.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    groups: tuple[tuple[str, ...], ...]

    def lookup(self) -> tuple[int, ...]:
        """Index in this set for each index of `CLASSES`; 255 where the set has no such class."""
        return tuple(
            next((i for i, group in enumerate(self.groups) if name in group), 255)
            for name in CLASSES
        )


CLASS_SETS: Mapping[str, ClassSet] = {
    "full": ClassSet(CLASSES, PALETTE, tuple((name,) for name in CLASSES)),
    "landcover": ClassSet(
        ("background", "building", "road", "water", "barren", "forest", "agriculture"),
        (
            (235, 235, 235),
            (208, 82, 66),
            (96, 96, 104),
            (54, 118, 190),
            (180, 144, 110),
            (38, 115, 58),
            (232, 200, 104),
        ),
        (
            ("grass", "pavement", "court", "tank", "vehicle", "ship", "aircraft"),
            ("building",),
            ("road",),
            ("water",),
            ("bare",),
            ("tree",),
            ("field",),
        ),
    ),
    "covers": ClassSet(
        ("vegetation", "building", "paved", "water", "other"),
        (
            (38, 150, 58),
            (208, 82, 66),
            (96, 96, 104),
            (54, 118, 190),
            (235, 235, 235),
        ),
        (
            ("grass", "field", "tree"),
            ("building",),
            ("road", "pavement", "court"),
            ("water",),
            ("bare", "tank", "vehicle", "ship", "aircraft"),
        ),
    ),
    "urban": ClassSet(
        ("impervious surface", "building", "low vegetation", "tree", "vehicle", "clutter"),
        (
            (235, 235, 235),
            (60, 60, 220),
            (70, 220, 220),
            (38, 150, 58),
            (250, 240, 60),
            (220, 60, 60),
        ),
        (
            ("road", "pavement", "court"),
            ("building",),
            ("grass", "field"),
            ("tree",),
            ("vehicle",),
            ("water", "bare", "tank", "ship", "aircraft"),
        ),
    ),
    "objects": ClassSet(
        ("background", "building", "court", "storage tank", "vehicle", "ship", "plane"),
        (
            (40, 40, 40),
            (208, 82, 66),
            (232, 132, 60),
            (130, 92, 160),
            (250, 240, 60),
            (250, 110, 200),
            (90, 230, 230),
        ),
        (
            ("grass", "field", "tree", "water", "bare", "road", "pavement"),
            ("building",),
            ("court",),
            ("tank",),
            ("vehicle",),
            ("ship",),
            ("aircraft",),
        ),
    ),
}
"""Class sets by name; ``"full"`` is scenes' own."""

NAMED_COLOURS: Mapping[str, Colour] = {
    "white": (222, 222, 218),
    "grey": (136, 137, 138),
    "black": (48, 48, 52),
    "red": (152, 70, 58),
    "orange": (182, 118, 80),
    "brown": (112, 84, 68),
    "yellow": (200, 174, 82),
    "green": (84, 120, 88),
    "blue": (76, 100, 144),
}
"""Colours that sentences may name; an object's paint is jittered around its own."""


@dataclass(frozen=True)
class Domain:
    """A place, a season and a sensor.

    Attributes:
        name: How it is asked for.
        gsd_m: Ground sampling distances that single scenes are drawn from; the first is the one
            of large scenes.
        kinds: Relative frequency of each scene class.
        ground: RGB choices of each ground material.
        roofs: Relative frequency of roof colours.
        crops: How many parcels in ten are under crop, bare soil, orchard.
        conifers: Share of trees that stay green.
        sun: Range of the sun's elevation in degrees.
        blur: Range of the point spread's sigma in pixels.
        noise: Range of the sensor noise's standard deviation in grey levels.
        haze: Range of the share of airlight.
        airlight: RGB of the haze.
        spread: Strength of the photometric jitter between scenes (1 is hard to learn).
        season: Word for captions.
    """

    name: str
    gsd_m: tuple[float, ...]
    kinds: Mapping[str, float]
    ground: Mapping[str, tuple[Colour, ...]]
    roofs: Mapping[str, float]
    crops: tuple[float, float, float]
    conifers: float
    sun: tuple[float, float]
    blur: tuple[float, float]
    noise: tuple[float, float]
    haze: tuple[float, float]
    airlight: Colour
    spread: float
    season: str


_ASPHALT = ((92, 92, 94), (112, 111, 110), (132, 130, 127), (78, 79, 83))
_CONCRETE = ((168, 165, 158), (150, 147, 142), (184, 180, 170), (122, 121, 119))

_TEMPERATE: dict[str, tuple[Colour, ...]] = {
    "grass": ((104, 128, 72), (122, 138, 80), (92, 116, 66), (138, 142, 92)),
    "crop": (
        (92, 124, 62),
        (126, 142, 70),
        (78, 108, 58),
        (176, 160, 92),
        (190, 172, 108),
        (146, 146, 84),
        (198, 182, 70),
    ),
    "soil": ((138, 114, 88), (122, 98, 76), (158, 134, 106), (106, 88, 70)),
    "bare": ((150, 128, 102), (170, 148, 120), (128, 106, 84), (176, 164, 146)),
    "sand": ((208, 192, 158), (194, 176, 140)),
    "tree": ((58, 84, 48), (68, 94, 52), (50, 74, 46), (78, 100, 54)),
    "conifer": ((44, 66, 48), (50, 72, 52)),
    "water": ((54, 78, 84), (44, 66, 70), (78, 92, 78), (66, 82, 96)),
    "sea": ((42, 76, 98), (50, 90, 104), (36, 64, 86)),
    "asphalt": _ASPHALT,
    "dirt": ((158, 138, 110), (142, 122, 98), (172, 156, 130)),
    "concrete": _CONCRETE,
}

DOMAINS: Mapping[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain(
            name="temperate",
            gsd_m=(0.5, 0.4, 0.6),
            kinds=dict.fromkeys(KINDS, 1.0) | {"farmland": 2.0, "residential": 2.0, "forest": 1.2},
            ground=_TEMPERATE,
            roofs={
                "red": 3,
                "orange": 2,
                "brown": 3,
                "grey": 4,
                "black": 2,
                "white": 1.5,
                "blue": 0.6,
                "green": 0.6,
            },
            crops=(6, 2.5, 1.5),
            conifers=0.2,
            sun=(35, 60),
            blur=(0.5, 0.8),
            noise=(1.5, 4.0),
            haze=(0.0, 0.12),
            airlight=(186, 198, 212),
            spread=0.5,
            season="summer",
        ),
        Domain(
            name="arid",
            gsd_m=(0.6, 0.5, 0.8),
            kinds=dict.fromkeys(KINDS, 1.0) | {"forest": 0.3, "farmland": 1.6, "airport": 1.4},
            ground={
                "grass": ((168, 152, 108), (150, 142, 92), (182, 164, 122), (136, 134, 82)),
                "crop": (
                    (94, 122, 62),
                    (110, 132, 70),
                    (176, 160, 104),
                    (196, 176, 126),
                    (134, 140, 80),
                ),
                "soil": ((182, 152, 116), (164, 132, 100), (198, 172, 136)),
                "bare": ((196, 168, 130), (180, 148, 112), (212, 188, 152), (168, 140, 108)),
                "sand": ((222, 200, 158), (206, 182, 140)),
                "tree": ((84, 98, 58), (96, 106, 66), (74, 88, 54)),
                "conifer": ((62, 80, 52),),
                "water": ((78, 98, 92), (92, 108, 92), (56, 84, 92)),
                "sea": ((48, 112, 128), (40, 92, 118)),
                "asphalt": ((128, 122, 114), (108, 104, 99), (146, 138, 126)),
                "dirt": ((198, 172, 134), (182, 154, 118)),
                "concrete": ((196, 186, 166), (178, 168, 150), (206, 200, 184)),
            },
            roofs={
                "white": 4,
                "grey": 3,
                "brown": 3,
                "orange": 2,
                "blue": 0.8,
                "green": 0.4,
                "red": 0.6,
            },
            crops=(5, 4, 1),
            conifers=0.1,
            sun=(50, 70),
            blur=(0.6, 0.9),
            noise=(2.0, 5.0),
            haze=(0.05, 0.25),
            airlight=(214, 198, 172),
            spread=0.5,
            season="the dry season",
        ),
        Domain(
            name="coastal",
            gsd_m=(0.4, 0.3, 0.5),
            kinds=dict.fromkeys(KINDS, 0.7)
            | {"harbor": 3.0, "coast": 3.0, "residential": 1.5, "lake": 1.0},
            ground=_TEMPERATE
            | {
                "grass": ((116, 134, 84), (142, 146, 100), (98, 122, 76)),
                "sand": ((222, 208, 176), (206, 190, 154), (190, 172, 136)),
                "sea": ((38, 104, 122), (52, 122, 132), (30, 78, 108), (74, 134, 136)),
                "water": ((48, 92, 104), (64, 98, 98)),
                "tree": ((64, 92, 56), (76, 102, 62), (56, 82, 54)),
            },
            roofs={
                "orange": 3,
                "white": 4,
                "red": 2,
                "grey": 3,
                "blue": 1.2,
                "brown": 1.5,
                "green": 0.8,
            },
            crops=(6, 3, 2),
            conifers=0.3,
            sun=(40, 65),
            blur=(0.5, 0.8),
            noise=(1.5, 3.5),
            haze=(0.0, 0.18),
            airlight=(196, 208, 218),
            spread=0.5,
            season="summer",
        ),
        Domain(
            name="urban",
            gsd_m=(0.3, 0.25, 0.4),
            kinds=dict.fromkeys(KINDS, 0.3)
            | {
                "residential": 4.0,
                "commercial": 3.0,
                "industrial": 2.0,
                "sports": 1.5,
                "highway": 1.5,
            },
            ground=_TEMPERATE
            | {
                "grass": ((112, 126, 84), (96, 116, 74), (132, 136, 98), (126, 120, 92)),
                "tree": ((70, 92, 58), (86, 98, 58), (60, 80, 50), (112, 98, 58)),
                "crop": ((118, 132, 78), (104, 122, 70), (150, 142, 96)),
            },
            roofs={
                "grey": 5,
                "black": 3,
                "white": 2.5,
                "brown": 2.5,
                "red": 2,
                "green": 1,
                "blue": 0.8,
            },
            crops=(6, 3, 1),
            conifers=0.1,
            sun=(30, 50),
            blur=(0.45, 0.7),
            noise=(1.0, 3.0),
            haze=(0.04, 0.18),
            airlight=(190, 192, 200),
            spread=0.5,
            season="early autumn",
        ),
        Domain(
            name="winter",
            gsd_m=(0.5, 0.4, 0.6),
            kinds=dict.fromkeys(KINDS, 1.0) | {"farmland": 1.6, "forest": 1.8, "residential": 1.6},
            ground={
                "grass": ((222, 224, 228), (206, 208, 212), (158, 146, 118), (186, 182, 170)),
                "crop": (
                    (226, 228, 232),
                    (212, 212, 214),
                    (142, 128, 104),
                    (186, 176, 160),
                    (112, 120, 80),
                ),
                "soil": ((118, 100, 84), (176, 168, 160), (138, 122, 106)),
                "bare": ((150, 136, 120), (196, 190, 184), (128, 112, 98)),
                "sand": ((206, 202, 196), (186, 176, 158)),
                "tree": ((104, 92, 80), (122, 108, 94), (90, 80, 72)),
                "conifer": ((46, 62, 50), (58, 72, 60)),
                "water": ((48, 58, 68), (70, 80, 88), (186, 196, 204)),
                "sea": ((52, 68, 82), (66, 84, 96)),
                "asphalt": ((104, 104, 108), (132, 132, 136), (88, 88, 92), (170, 170, 174)),
                "dirt": ((176, 168, 158), (142, 128, 112)),
                "concrete": ((178, 178, 178), (156, 156, 158), (202, 202, 204)),
            },
            roofs={"white": 6, "grey": 3, "brown": 2, "red": 1.5, "black": 2, "blue": 0.5},
            crops=(5, 4, 1),
            conifers=0.5,
            sun=(15, 30),
            blur=(0.6, 0.9),
            noise=(2.0, 5.0),
            haze=(0.0, 0.15),
            airlight=(202, 208, 218),
            spread=0.5,
            season="winter",
        ),
    )
}
"""Domains by name."""
