"""What a model sees: its stages' strongest channels, and where the shared encoder looks."""

from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from swath.core.viz.figures import new_figure, panels
from swath.core.viz.overlay import feature_rgb
from swath.mtl.models.encoder import EncoderLayer
from swath.mtl.models.rscotr import RSCoTr


class AttentionPoints(NamedTuple):
    """Where one token looks; N = heads * levels * points places.

    Attributes:
        token: Its own place x, y in 0..1 of the image.
        places: ``(N, 2)`` x, y in 0..1.
        weights: ``(N,)``; those of a head add up to 1.
        levels: ``(N,)``, number of the level in the order of the call.
    """

    token: NDArray[np.float64]
    places: NDArray[np.float64]
    weights: NDArray[np.float64]
    levels: NDArray[np.int64]


@torch.no_grad()
def attention_points(
    model: RSCoTr,
    image: Tensor,
    at: tuple[float, float],
    head: str = "seg",
    layer: int = -1,
) -> AttentionPoints | None:
    """Where the shared encoder looks from a place of the image, when it works for a head.

    The token is the one of the finest level (stride 8) that is nearest.

    Args:
        model: The model, in eval mode.
        image: ``(3, H, W)``, normalised.
        at: The place x, y in 0..1.
        head: Detection calls the encoder finest level first, all others coarsest first.
        layer: Of the encoder.

    Returns:
        The points; None if the head makes no use of the encoder.
    """
    seen: list[Any] = []
    chosen = model.encoder.layers[layer]
    assert isinstance(chosen, EncoderLayer)
    hook = chosen.self_attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    try:
        model(image[None], [head])
    finally:
        hook.remove()
    if not seen:
        return None
    query, _, reference, shapes, *_ = seen[0]
    finest = max(range(len(shapes)), key=lambda level: shapes[level][0] * shapes[level][1])
    start = sum(h * w for h, w in shapes[:finest])
    own = reference[0, start : start + shapes[finest][0] * shapes[finest][1], 0]
    token = start + int((own - own.new_tensor(at)).square().sum(1).argmin())
    offsets, logits = chosen.self_attn.choose(query[:, token : token + 1])
    sizes = query.new_tensor([[w, h] for h, w in shapes])
    places = reference[0, token, :, None] + offsets[0, 0] / sizes[:, None]
    weights = logits[0, 0].flatten(1).softmax(1)
    levels = torch.arange(len(shapes))[None, :, None].expand(logits.shape[2:])
    return AttentionPoints(
        reference[0, token, 0].double().cpu().numpy(),
        places.reshape(-1, 2).double().cpu().numpy(),
        weights.flatten().double().cpu().numpy(),
        levels.flatten().numpy(),
    )


def attention_figure(picture: NDArray[np.uint8], points: AttentionPoints) -> Figure:
    """The places on the image: larger where they count more, coloured by level.

    Args:
        picture: ``(H, W, 3)`` uint8.
        points: See `attention_points`.
    """
    figure = new_figure(5, 5)
    axes = figure.add_subplot()
    height, width = picture.shape[:2]
    axes.imshow(picture)
    scale = np.array([width, height])
    x, y = (points.places * scale - 0.5).T  # pixel centres are whole numbers on the axes
    dots = axes.scatter(
        x, y, s=600 * points.weights, c=points.levels, cmap="plasma", alpha=0.75, linewidths=0
    )
    x, y = points.token * scale - 0.5
    for colour, linewidth in (("black", 4), ("white", 2)):  # seen on any ground
        axes.scatter([x], [y], marker="+", s=160, c=colour, linewidths=linewidth)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.set_axis_off()
    axes.legend(*dots.legend_elements(), title="level", loc="upper right", fontsize=8)
    return figure


@torch.no_grad()
def feature_figure(model: RSCoTr, image: Tensor, channels: int = 4) -> Figure:
    """Of each stage its three strongest components as a picture, and its strongest channels.

    Args:
        model: The model.
        image: ``(3, H, W)``, normalised.
        channels: How many channels of a stage, those with the highest mean.
    """
    shown = {}
    for number, stage in enumerate(model.features(image[None]).stages):
        maps = stage[0].float().cpu()
        shown[f"stage {number + 1}"] = feature_rgb(maps.numpy())
        for channel in maps.mean((1, 2)).topk(min(channels, len(maps))).indices.tolist():
            shown[f"{number + 1}, channel {channel}"] = _heat(maps[channel].numpy())
    return panels(shown, columns=1 + channels, side=1.6)


def _heat(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Low dark, high bright, ``(H, W, 3)``."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    colours: NDArray[Any] = colormaps["inferno"](share)[..., :3]
    return (colours * 255).round().astype(np.uint8)
