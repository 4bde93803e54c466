"""What decides which shards come out of an archive: `Recipe`."""

from dataclasses import dataclass

from swath.core.data.radiometry import Radiometry
from swath.core.errors import ConfigError
from swath.pretrain.rs4p.duplicates import MAX_RADIUS
from swath.pretrain.rs4p.sources import Cutting


@dataclass(frozen=True)
class Recipe:
    """What decides which bytes come out, beside the scenes and the model.

    Attributes:
        tile: Largest side of a tile in pixels.
        min_size: Scenes with a shorter side are left out.
        min_valid: Least share of a tile that must hold data and not be black.
        bands: Red, green and blue, numbered from 1; None takes the first three.
        scale: ``"darkest:brightest"`` of scenes that aren't 8 bits, or a factor; None refuses them.
        image_format: ``"jpg"`` (quality 95, full colour resolution) or ``"png"``.
        duplicate_bits: Bits of 64 in which the perceptual hashes of duplicates differ at most; -1
            keeps duplicates.
        confidence: Confidence, 0 to 1, from which a pixel counts as sure: 0.5 means that its class
            is as likely as all others together.
        min_confident: Least share of a tile's pixels that must be sure.
        balance: Share of tiles up to which a class counts as rare, see `balanced`; 1 keeps all.
        shard_mb: Size of a shard in MB.
        batch_size: Tiles that the model labels at once.

    Raises:
        ConfigError: If a value is out of range.
    """

    tile: int = 512
    min_size: int = 64
    min_valid: float = 0.5
    bands: tuple[int, ...] | None = None
    scale: str | None = None
    image_format: str = "jpg"
    duplicate_bits: int = 4
    confidence: float = 0.5
    min_confident: float = 0.5
    balance: float = 1.0
    shard_mb: float = 256.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        self._require("tile", self.tile >= 32, "32 or more")
        numbered = self.bands is None or (len(self.bands) == 3 and min(self.bands) >= 1)
        self._require("bands", numbered, "three band numbers, from 1")
        self._require("image_format", self.image_format in ("jpg", "png"), "jpg or png")
        bits = f"-1 (keep all) to {MAX_RADIUS}"
        self._require("duplicate_bits", -1 <= self.duplicate_bits <= MAX_RADIUS, bits)
        for name in ("min_valid", "confidence", "min_confident"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._require("balance", 0 < self.balance <= 1, "above 0, up to 1")
        self._require("shard_mb", self.shard_mb > 0, "above 0")
        self._require("batch_size", self.batch_size >= 1, "1 or more")
        _ = self.cutting  # the scale can be read

    def _require(self, name: str, claim: bool, allowed: str) -> None:
        if not claim:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} {getattr(self, name)} must be {allowed}")

    @property
    def cutting(self) -> Cutting:
        """What the workers need to know."""
        scale = None
        if self.scale is not None:
            radiometry = Radiometry.rgb8().with_scale(self.scale)
            scale = radiometry.scale, radiometry.offset
        return Cutting(
            self.tile, self.min_size, self.min_valid, self.bands, scale, self.image_format
        )
