"""Layers that the encoder and the decoders share: deformable attention, sine codes, small MLPs."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swath.kernels import ms_deform_attn_from_logits

Shape = tuple[int, int]
"""Height and width of a level."""


class MSDeformAttention(nn.Module):
    """Multi-scale deformable attention with its projections.

    Args:
        dim: Channels C of queries and values.
        heads: Attention heads.
        levels: Levels L of the pyramid.
        points: Points read of each level by a head of a query.

    Source:
        Zhu et al. 2021 (Deformable DETR), section 4.1; offsets start on the eight neighbours, a
        ring further out for every point, as in its appendix.
    """

    def __init__(self, dim: int = 256, heads: int = 8, levels: int = 4, points: int = 4) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ring = torch.stack((angles.cos(), angles.sin()), -1)
        ring = ring / ring.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1.0)[:, None]
        grid = (ring[:, None, None] * steps).expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(grid.reshape(-1))

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference: Tensor,
        shapes: list[Shape],
        padding: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: ``(B, Q, C)``, position included.
            value: ``(B, S, C)``, the levels one after the other.
            reference: ``(B, Q, L, 2)`` points x, y or ``(B, Q, L, 4)`` boxes cx, cy, w, h, in units
                of the level.
            shapes: Height and width of each level.
            padding: bool ``(B, S)``, True where nothing is to be read; None: nowhere.

        Returns:
            ``(B, Q, C)``.
        """
        batch, _, dim = query.shape
        value = self.value_proj(value)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        value = value.view(batch, -1, self.heads, dim // self.heads)
        offsets, weights = self.choose(query)
        read = ms_deform_attn_from_logits(value, shapes, None, reference, offsets, weights)
        out: Tensor = self.output_proj(read)
        return out

    def choose(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Where queries ``(B, Q, C)`` look, and how much each place counts.

        Returns:
            Offsets ``(B, Q, heads, L, P, 2)`` and logits ``(B, Q, heads, L, P)``.
        """
        samples = (*query.shape[:2], self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).view(*samples, 2)
        return offsets, self.attention_weights(query).view(samples)


def feed_forward(dim: int, hidden: int) -> nn.Sequential:
    """Two linear layers with a ReLU in between."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dim))


def mlp(dim: int, out: int) -> nn.Sequential:
    """Three linear layers with ReLUs in between."""
    return nn.Sequential(
        nn.Linear(dim, dim),
        nn.ReLU(inplace=True),
        nn.Linear(dim, dim),
        nn.ReLU(inplace=True),
        nn.Linear(dim, out),
    )


def sine_code(position: Tensor, features: int, temperature: float) -> Tensor:
    """Sines and cosines of a position in turn, at geometrically falling frequencies.

    Args:
        position: ``(...)``, in radians.
        features: Length F of a code, even.
        temperature: Ratio of the highest frequency to the lowest, nearly.

    Returns:
        ``(..., F)``.

    Source:
        Vaswani et al. 2017, section 3.5.
    """
    pairs = torch.arange(features // 2, dtype=torch.float32, device=position.device)
    phase = position[..., None] / temperature ** (2 * pairs / features)
    return torch.stack((phase.sin(), phase.cos()), -1).flatten(-2)


def sine_positions(padding: Tensor, features: int, temperature: float) -> Tensor:
    """A code for every place of a level: y first, then x, each from 0 to 2 pi over what is valid.

    Args:
        padding: bool ``(B, H, W)``, True outside of the image.
        features: Length of the code of one coordinate.
        temperature: See `sine_code`.

    Returns:
        ``(B, H, W, 2 * features)``.
    """
    seen = (~padding).float()
    codes = []
    for axis in (1, 2):
        count = seen.cumsum(axis)
        share = count / (count.narrow(axis, -1, 1) + 1e-6)
        codes.append(sine_code(share * 2 * math.pi, features, temperature))
    return torch.cat(codes, -1)


def cell_centres(shapes: list[Shape], device: torch.device) -> list[Tensor]:
    """Centres (x, y) of the cells of each level, ``(H * W, 2)``, in units of the level."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        centres.append(torch.stack((columns, rows), -1).view(-1, 2))
    return centres


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """Logit of numbers in [0, 1], which are kept ``eps`` away from both ends."""
    x = x.clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def resized(maps: Tensor, size: Shape | torch.Size) -> Tensor:
    """Bilinear resize of maps ``(B, C, H, W)``, corners not aligned."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
