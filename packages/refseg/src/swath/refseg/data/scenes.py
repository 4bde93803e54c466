"""Rendered scenes with sentences about one object, about many, and about none."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from swath.core.data.scenes import CLASSES, OBJECT_CLASSES, SceneDataset
from swath.core.data.scenes.domains import NAMED_COLOURS
from swath.core.data.scenes.scene import Scene
from swath.core.errors import DataError, suggest
from swath.core.sample import Sample
from swath.refseg.text import PROMPT

KINDS = ("object", "class", "colour", "nothing")
"""A sentence means the one object that fits it; all objects or pixels of a class, in the words that
tasks ask for classes; all objects of a class and colour; or nothing that is there."""

GROUND = tuple(name for name in CLASSES if name not in OBJECT_CLASSES)
"""Classes that are asked for by their pixels."""

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = (
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    "above", "aircraft", "airplane", "at", "bare", "baseball", "basketball", "below", "black",
    "blue", "bottom", "bottommost", "bridge", "brown", "building", "centre", "court", "diamond",
    "field", "grass", "green", "grey", "ground", "harbor", "image", "in", "largest", "left",
    "leftmost", "of", "only", "orange", "pavement", "red", "right", "rightmost", "road", "ship",
    "smallest", "soccer", "storage", "tank", "tennis", "the", "top", "topmost", "track", "tree",
    "vehicle", "water", "white", "yellow",
    *_LETTERS, *(f"##{letter}" for letter in _LETTERS),
)  # fmt: skip
"""The words of sentences about scenes and VHR-10, for `WordPieces`; others are spelt by letters."""

SEEN_WORDS = tuple(sorted({
    *GROUND, *NAMED_COLOURS, "aircraft", "basketball", "building", "court", "ship", "soccer",
    "storage", "tank", "tennis", "vehicle",
}))  # fmt: skip
"""Words that are true of pixels by themselves, whatever else the scene shows."""

ATTEMPTS = 8
"""How many scenes are tried for one that a sentence can single out an object of."""

Asked = tuple[str, NDArray[np.bool_], str]
"""A sentence, its mask ``(H, W)``, and its kind."""


class SceneSentences:
    """Scenes with a sentence each, as samples of referring segmentation.

    Sets of different ``seed`` share no scene. ``meta["kind"]`` says what kind of sentence it is:
    for those about one object the kind of `swath.core.data.scenes`' expressions, ``unique``,
    ``colour``, ``size``, ``extreme``, ``position`` or ``relation``; for the others ``many of a
    class``, ``many of a colour`` and ``nothing``.

    Args:
        size: Side of the scenes in pixels.
        count: How many samples.
        seed: Which ones.
        domain: See `SceneDataset`.
        shares: How often each of `KINDS` is drawn, in any unit.
        sentences: Samples per scene. In training they come one after the other, so that a scene is
            rendered once for all of them.
        empty_scenes: Whether there may be scenes in which no sentence singles out an object: at
            96 px that is every third.
        words: Whether samples say what single words mean: ``"words"`` uint8 ``(K, H, W)``, 1 where
            a word is true, and ``meta["words"]``, which K these are.

    Raises:
        DataError: If a kind is unknown.
    """

    def __init__(
        self,
        size: int = 128,
        count: int = 1000,
        seed: int = 0,
        domain: str = "temperate",
        shares: Mapping[str, float] | None = None,
        sentences: int = 1,
        empty_scenes: bool = True,
        words: bool = False,
    ) -> None:
        shares = dict(shares or {"object": 1})
        for kind in shares:
            if kind not in KINDS:
                raise DataError(f"scenes have no sentences of kind '{kind}'{suggest(kind, KINDS)}")
        self.count, self.sentences = count, sentences
        self.shares = np.array([shares.get(kind, 0.0) for kind in KINDS])
        self.attempts = 1 if empty_scenes else ATTEMPTS
        self.scenes = SceneDataset(size, -(-count // sentences) * self.attempts, seed, domain)
        self.words = words
        self.epoch_order = self._scene_by_scene
        self._rendered: tuple[int, Scene] | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """A scene, ``"sentence"`` and ``"mask"`` uint8 ``(H, W)``, 0 or 1."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        number, turn = divmod(index, self.sentences)
        scene = self.scene(number)
        random = np.random.default_rng((self.scenes.seed, number, turn))
        order = random.permutation(len(KINDS))
        kind = random.choice(len(KINDS), p=self.shares / self.shares.sum())
        # a scene may have no sentence of the kind that was drawn: then another that has a share,
        # or one about the ground, or about nothing if a part of something covers all of it
        others = (KINDS.index("class"), KINDS.index("nothing"))
        tried = [kind, *(k for k in order if self.shares[k]), *others]
        sentence, mask, what = next(
            asked for k in tried if (asked := _ask(KINDS[k], scene, random)) is not None
        )
        name = f"{self.scenes.domain}-{self.scenes.seed}-{number:06d}-{turn}"
        meta = {"id": name, "gsd_m": scene.gsd_m, "kind": what}
        image = tv_tensors.Image(torch.from_numpy(scene.planes))
        targets = {"sentence": sentence, "mask": _mask(mask)}
        if self.words:
            meta["words"], targets["words"] = SEEN_WORDS, _mask(_true_words(scene))
        return Sample(image, targets, None, meta)

    def scene(self, number: int) -> Scene:
        """The scene of that number; kept until another is asked for."""
        if self._rendered is None or self._rendered[0] != number:
            for attempt in range(self.attempts):
                scene = self.scenes.scene(number * self.attempts + attempt)
                if scene.expressions:
                    break
            self._rendered = number, scene
        return self._rendered[1]

    def _scene_by_scene(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Scenes in random order, the samples of each together; see `swath.core.data.loader`."""
        random = np.random.default_rng((seed, epoch))
        starts = random.permutation(len(self.scenes) // self.attempts) * self.sentences
        order = (starts[:, None] + np.arange(self.sentences)).ravel()
        return np.asarray(order[order < self.count])


def _ask(kind: str, scene: Scene, random: np.random.Generator) -> Asked | None:
    """A sentence of a kind about a scene; None if there is nothing to say."""
    nouns = sorted({thing.noun for thing in scene.objects})
    if kind == "object":
        if not scene.expressions:
            return None
        # a kind first: relations are many and would crowd out the others
        form = _pick(sorted({e.form["kind"] for e in scene.expressions}), random)
        group = [e for e in scene.expressions if e.form["kind"] == form]
        chosen = group[random.integers(len(group))]
        return chosen.text, scene.instances == chosen.object, chosen.form["kind"]
    if kind == "colour":
        pairs = sorted({(t.colour, t.noun) for t in scene.objects if t.colour})
        if not pairs:
            return None
        colour, noun = pairs[random.integers(len(pairs))]
        ids = [t.id for t in scene.objects if (t.colour, t.noun) == (colour, noun)]
        return PROMPT.format(f"{colour} {noun}"), np.isin(scene.instances, ids), "many of a colour"
    present = [CLASSES[i] for i in np.unique(scene.mask)]
    if kind == "class":
        ground = [name for name in present if name in GROUND]
        if not nouns and not ground:
            return None
        name = _pick(nouns if nouns and random.random() < 0.75 else ground or nouns, random)
        return PROMPT.format(name), _of_class(scene, name), "many of a class"
    # a class by which others are called (a tennis court is a court) is not absent
    absent = sorted({*GROUND, *OBJECT_CLASSES} - {*present})
    if not absent:
        return None
    return PROMPT.format(_pick(absent, random)), np.zeros(scene.mask.shape, bool), "nothing"


def _of_class(scene: Scene, name: str) -> NDArray[np.bool_]:
    """Pixels of a ground class, or of all objects that are called so."""
    if name in GROUND:
        return np.asarray(scene.mask == CLASSES.index(name))
    return np.isin(scene.instances, [t.id for t in scene.objects if t.noun == name])


def _pick(names: Sequence[str], random: np.random.Generator) -> str:
    return names[int(random.integers(len(names)))]


def _true_words(scene: Scene) -> NDArray[np.bool_]:
    """Where each of `SEEN_WORDS` is true, ``(K, H, W)``."""
    said = [set[str](), *({t.colour, *t.noun.split()} for t in scene.objects)]
    true = np.array([[word in words for words in said] for word in SEEN_WORDS])
    masks = true[:, scene.instances]
    for name in GROUND:
        masks[SEEN_WORDS.index(name)] |= scene.mask == CLASSES.index(name)
    return masks


def _mask(values: NDArray[np.bool_]) -> tv_tensors.Mask:
    return tv_tensors.Mask(torch.from_numpy(values.astype(np.uint8)))
