"""U-Net, small enough to be trained from scratch on a CPU.

Paper:   Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image
         Segmentation", MICCAI 2015, https://arxiv.org/abs/1505.04597 (figure 1).
Code:    written from the paper; no weights from elsewhere.
Departs: 3x3 convolutions are padded, so that the logits have the size of the image; every
         convolution is followed by batch normalisation; blocks are residual; the first block works
         at half resolution (`stem_stride`), where most of the time would go otherwise; upsampling
         is bilinear and skips are added after a 1x1 projection instead of concatenated.
"""

from torch import Tensor, nn
from torch.nn import functional as F


def conv_norm_act(
    in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    """Convolution, batch normalisation, ReLU; same size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity (1x1 where the width changes).

    Source:
        He et al., "Deep Residual Learning", CVPR 2016, figure 2 left, with the projection of
        option B.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            conv_norm_act(in_channels, out_channels),
            nn.Dropout2d(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C_in, H, W)`` -> ``(B, C_out, H, W)``."""
        return F.relu(self.convs(x) + self.skip(x))


class UNet(nn.Module):
    """Encoder and decoder with skip connections: an image to per-pixel class scores.

    Args:
        in_channels: Bands of the image.
        num_classes: Classes K.
        width: Channels of the first level; every level below has twice as many.
        depth: How often the resolution is halved after the stem, >= 1.
        stem_stride: 1 works at full resolution from the start; 2 or 4 begin coarser, which is about
            that factor squared faster, and the scores are brought back bilinearly.
        dropout: Share of channels dropped inside the blocks of the deepest level.

    Raises:
        ValueError: If an argument is outside its range.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int = 32,
        depth: int = 4,
        stem_stride: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if depth < 1 or width < 1 or stem_stride not in (1, 2, 4):
            raise ValueError(
                "UNet needs depth >= 1, width >= 1 and stem_stride 1, 2 or 4; got "
                f"depth={depth}, width={width}, stem_stride={stem_stride}"
            )
        self.stride = stem_stride * 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        # a strided stem sees each of its cells whole: kernel 7 at stride 4, 5 at 2, 3 at 1
        kernel = {1: 3, 2: 5, 4: 7}[stem_stride]
        self.stem = conv_norm_act(in_channels, width, kernel=kernel, stride=stem_stride)
        self.encoder = nn.ModuleList(
            ResidualBlock(
                widths[max(level - 1, 0)],
                channels,
                dropout=dropout if level == depth else 0.0,
            )
            for level, channels in enumerate(widths)
        )
        self.lateral = nn.ModuleList(
            nn.Conv2d(widths[level + 1], widths[level], 1, bias=False) for level in range(depth)
        )
        self.decoder = nn.ModuleList(
            ResidualBlock(widths[level], widths[level]) for level in range(depth)
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            image: ``(B, in_channels, H, W)`` float, any H and W; it is padded at the right and
                bottom to a multiple of `stride`, and the scores are cropped back.

        Returns:
            Logits ``(B, num_classes, H, W)``.
        """
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        size = x.shape[-2:]
        x = self.stem(x)
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for level in reversed(range(len(self.decoder))):
            # project before upsampling: a quarter of the work, the same map (both are linear)
            up = F.interpolate(self.lateral[level](x), scale_factor=2, mode="bilinear")
            x = self.decoder[level](up + skips.pop())
        logits = F.interpolate(self.classifier(x), size=size, mode="bilinear")
        return logits[..., :height, :width]
