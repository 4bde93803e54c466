"""From class names to token ids: templates, alternatives, and CLIP's own vocabulary.

open_clip brings the vocabulary along, so that nothing is fetched.
"""

from collections.abc import Sequence
from functools import cache

import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES, SimpleTokenizer
from torch import Tensor

from swath.core.errors import ConfigError, suggest

SINGLE = ("A photo of a {} in the scene",)
"""The template of every published model."""

SELECTED = (
    "There is {} in the scene",
    "There is {} in the image",
    "a photo of {} in the scene",
    "an aerial image of {}",
    "a satellite image of {}",
    "a drone image of {}",
    "a photo of small {}",
    "a photo of large {}",
)
"""Eight templates for imagery from above; ours."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": SINGLE,
    "imagenet": tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES),
    "overhead": SELECTED,
    "name": ("{}",),
}
"""Ensembles by name: the published one, CLIP's 80, eight of ours, and the name alone."""


def templates(choice: str | Sequence[str]) -> tuple[str, ...]:
    """An ensemble by name, or one's own: a sentence or several.

    Raises:
        ConfigError: If there is none of that name, or a template has no ``{}``.
    """
    if isinstance(choice, str) and "{}" in choice:
        choice = [choice]
    if isinstance(choice, str):
        if choice not in TEMPLATES:
            raise ConfigError(
                f"no templates are called '{choice}', and a sentence of your own needs {{}} where "
                f"the class stands{suggest(choice, list(TEMPLATES))}"
            )
        return TEMPLATES[choice]
    for template in choice:
        if template.count("{}") != 1:
            raise ConfigError(f"the template '{template}' must hold {{}} once, for the class")
    if not choice:
        raise ConfigError("an ensemble needs at least one template")
    return tuple(choice)


def tokenize(
    names: Sequence[str], ensemble: Sequence[str] = SINGLE, context_length: int = 77
) -> Tensor:
    """Token ids ``(T, P, L)``, int64, zero-padded, of every name in every template.

    L is the length of the longest sentence: what CLIP makes of a text doesn't depend on padding.

    Names stand in the sentence as they are; the tokeniser lower-cases and un-escapes HTML. Other
    scripts are spelt in bytes: CLIP has hardly seen them.

    Args:
        names: T names.
        ensemble: P templates.
        context_length: Most tokens, begin and end included.

    Raises:
        ConfigError: If a name is too long for the context.
    """
    tokenizer = _tokenizer()
    sentences = []
    for name in names:
        for template in ensemble:
            inside = tokenizer.encode(template.replace("{}", name))
            sentences.append([tokenizer.sot_token_id, *inside, tokenizer.eot_token_id])
            if len(sentences[-1]) > context_length:
                shown = name if len(name) <= 40 else f"{name[:37]}..."
                raise ConfigError(
                    f"class '{shown}' is {len(inside) + 2} tokens long, {context_length} is the "
                    "most; shorten it"
                )
    rows = [torch.tensor(sentence) for sentence in sentences]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    tokens: Tensor = ids.unflatten(0, (len(names), len(ensemble)))
    return tokens


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()
