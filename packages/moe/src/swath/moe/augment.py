"""How MoE-MDF augments its training images, the same for every data set of a kind."""

from torchvision.transforms import v2

from swath.core.data.transforms import Dihedral, GaussianBlur, RandomScaledCrop


def mdf_augment(
    size: int, scale: tuple[float, float] = (0.5, 2.0), *, ignore_index: int = 255
) -> v2.Compose:
    """Scale, crop, turn; then colours, grey and blur at random. For three bands.

    The official order and numbers, but: the scale is drawn log-uniformly, where officially the long
    side is uniform, and a small image lands anywhere in the crop, where officially it is padded
    right and below. Two flips and a quarter turn, each at p 0.5, are one of eight orientations.

    Args:
        size: Side of the result in pixels.
        scale: Range of zoom factors.
        ignore_index: What padding is in a semantic mask.

    Source:
        S5 dossier c.1.
    """
    return v2.Compose(
        [
            RandomScaledCrop(size, scale=scale, ignore_index=ignore_index),
            Dihedral(),
            v2.RandomApply([v2.ColorJitter(0.5, 0.5, 0.5, 0.25)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            GaussianBlur((0.1, 2.0), p=0.5),
        ]
    )


def mdf_detection_augment(size: int = 1024) -> v2.Compose:
    """Enlarge or shrink to a longer side of ``size``, then the two flips at random.

    Args:
        size: Longer side of the result in pixels.

    Source:
        S5 dossier c.2; the official random rotation has one angle only, 0.
    """
    return v2.Compose(
        [v2.Resize(None, max_size=size), v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    )
