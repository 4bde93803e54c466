"""What a detector gives: boxes that know their image, their classes and their place on earth."""

import base64
import html
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from swath.core.errors import ConfigError
from swath.core.files import atomic_path
from swath.core.geo.globe import cut_at_date_line, to_degrees
from swath.core.geo.raster import RasterInfo
from swath.core.geo.vectorise import write_polygons
from swath.core.palette import default_palette

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure


@dataclass(eq=False)
class DetectionResult:
    """Objects found in an image.

    Attributes:
        info: Size and georeference of the image.
        classes: Class names in index order.
        boxes: ``(N, 4)`` corners x1, y1, x2, y2, or ``(N, 5)`` rotated boxes cx, cy, w, h, angle
            (radians, clockwise positive on screen); pixels.
        labels: int64 ``(N,)``.
        scores: ``(N,)`` in 0..1.
        image: The image it was made from, for pictures.

    Raises:
        ValueError: If shapes, lengths or labels don't fit.
    """

    info: RasterInfo
    classes: tuple[str, ...]
    boxes: NDArray[np.floating[Any]]
    labels: NDArray[np.int64]
    scores: NDArray[np.floating[Any]]
    image: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.ndim != 2 or self.boxes.shape[1] not in (4, 5):
            raise ValueError(f"boxes must be (N, 4) or (N, 5); got {self.boxes.shape}")
        if len(self.labels) != count or len(self.scores) != count:
            raise ValueError(
                f"{count} boxes need as many labels and scores; got {len(self.labels)} and "
                f"{len(self.scores)}"
            )
        labels = np.asarray(self.labels)
        if count and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise ValueError(f"labels must be 0 to {len(self.classes) - 1}; got {self.labels}")

    def __len__(self) -> int:
        return len(self.boxes)

    def corners(self) -> NDArray[np.float64]:
        """``(N, 4, 2)`` corners in pixels, clockwise on screen from the upper left of the box."""
        boxes = np.asarray(self.boxes, dtype=np.float64)
        if boxes.shape[1] == 4:
            x1, y1, x2, y2 = boxes.T
            return np.stack([x1, y1, x2, y1, x2, y2, x1, y2], axis=1).reshape(-1, 4, 2)
        cx, cy, w, h, angle = boxes.T
        along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * w[:, None] / 2
        across = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * h[:, None] / 2
        centre = np.stack([cx, cy], axis=1)
        return np.stack(
            [
                centre - along - across,
                centre + along - across,
                centre + along + across,
                centre - along + across,
            ],
            axis=1,
        )

    def summary(self) -> dict[str, Any]:
        """``"objects"``: how many there are of each class."""
        counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return {"objects": dict(zip(self.classes, counts, strict=True))}

    def to_gdf(self) -> "GeoDataFrame":
        """Polygons with ``class``, ``class_id`` and ``score``, in the image's CRS or in pixels.

        In pixels, without a CRS, if it has none or no transform to it.
        """
        import geopandas as gpd

        info, points = self.info, self.corners()
        t = info.transform
        x, y = points[..., 0], points[..., 1]
        placed = np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=-1)
        return gpd.GeoDataFrame(
            {
                "class": np.array([self.classes[i] for i in self.labels], dtype=object),
                "class_id": np.asarray(self.labels, dtype=np.int32),
                "score": np.asarray(self.scores, dtype=np.float64),
            },
            geometry=list(shapely.polygons(placed)),
            crs=info.crs.to_wkt() if info.crs is not None and info.placed else None,
        )

    def plot(self, min_score: float = 0.0, side: int = 1400) -> "Figure":
        """The image with an outline around every object, its class and its score.

        Without an image the outlines stand on an empty one of its size.

        Args:
            min_score: Objects below are left out.
            side: Longest side of the picture in pixels; larger images are thinned out.
        """
        from swath.core.viz.figures import panels
        from swath.core.viz.scene import picture

        shown = picture(self.image, self.info, side)
        figure = panels({"": shown}, side=8)
        axes = figure.axes[0]
        factor = np.array([shown.shape[1] / self.info.width, shown.shape[0] / self.info.height])
        palette = default_palette(len(self.classes))
        for quad, label, score in zip(self.corners(), self.labels, self.scores, strict=True):
            if score < min_score:
                continue
            colour = tuple(c / 255 for c in palette[label])
            points = quad * factor - 0.5  # pixel centres are whole numbers on the axes
            axes.fill(*points.T, fill=False, edgecolor=colour, linewidth=1.5)
            axes.annotate(
                f"{self.classes[label]} {score:.2f}", points[0], fontsize=7, color="white",
                xytext=(0, 2), textcoords="offset points", annotation_clip=True,
                bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        axes.set(xlim=(-0.5, shown.shape[1] - 0.5), ylim=(shown.shape[0] - 0.5, -0.5))
        return figure

    def _repr_html_(self) -> str:
        stream = io.BytesIO()
        self.plot(side=700).savefig(stream, format="png", dpi=60)
        data = base64.b64encode(stream.getvalue()).decode()
        counts = np.bincount(self.labels, minlength=len(self.classes))
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{count}</td></tr>"
            for name, count in zip(self.classes, counts, strict=True)
            if count
        )
        return (
            f'<div style="display:flex;gap:1em"><img alt="objects" src="data:image/png;base64,'
            f'{data}"><div><b>DetectionResult</b> {len(self)} objects<table>{rows}</table></div>'
            "</div>"
        )

    def save(self, path: str | Path) -> Path:
        """Write the objects in the format the suffix says.

        Args:
            path: ``.geojson`` (EPSG:4326, cut at the date line), ``.gpkg`` (the image's CRS),
                ``.json`` (COCO results in a COCO file) or ``.txt`` (DOTA: eight coordinates, class,
                difficulty 0).

        Returns:
            The path.

        Raises:
            ConfigError: If the suffix is none of these.
        """
        path = Path(path)
        writers: dict[str, Callable[[Path], None]] = {
            ".geojson": self._vectors,
            ".gpkg": self._vectors,
            ".json": self._coco,
            ".txt": self._dota,
        }
        if path.suffix.lower() not in writers:
            raise ConfigError(
                f"{path}: a detection result can't be saved as '{path.suffix}'; use one of "
                f"{', '.join(writers)}"
            )
        with atomic_path(path) as temporary:
            writers[path.suffix.lower()](temporary)
        return path

    def save_yolo(self, path: str | Path) -> Path:
        """Write YOLO-OBB text: class number from 0 and corners as shares of the image's size.

        Scores aren't written: the file is that of labels.

        Returns:
            The path.
        """
        path = Path(path)
        shares = self.corners() / (self.info.width, self.info.height)
        lines = [
            f"{label} " + " ".join(f"{v:.6f}" for v in quad.ravel()) + "\n"
            for quad, label in zip(shares, self.labels, strict=True)
        ]
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        return path

    def _vectors(self, path: Path) -> None:
        table = self.to_gdf()
        options: dict[str, Any] = {"driver": "GPKG"}
        if path.suffix.lower() == ".geojson":
            if table.crs is not None and to_degrees(self.info, needed=True) is not None:
                table = table.to_crs("EPSG:4326")
                table.geometry = [cut_at_date_line(shape) for shape in table.geometry]
            options = {"driver": "GeoJSON", "COORDINATE_PRECISION": 9, "geometry_type": "Unknown"}
        write_polygons(table, path, layer="objects", **options)

    def _coco(self, path: Path) -> None:
        name = Path(self.info.path).name if self.info.path is not None else "image"
        annotations = []
        for i, quad in enumerate(self.corners()):
            low, high = quad.min(axis=0), quad.max(axis=0)
            area = float(shapely.area(shapely.Polygon(quad)))
            annotations.append(
                {
                    "id": i + 1,
                    "image_id": 1,
                    "category_id": int(self.labels[i]) + 1,
                    "bbox": [*map(float, low), *map(float, high - low)],
                    "segmentation": [[float(v) for v in quad.ravel()]],
                    "area": area,
                    "iscrowd": 0,
                    "score": float(self.scores[i]),
                }
            )
        content = {
            "images": [
                {"id": 1, "file_name": name, "width": self.info.width, "height": self.info.height}
            ],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(self.classes)],
            "annotations": annotations,
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _dota(self, path: Path) -> None:
        lines = [
            " ".join(f"{v:.2f}" for v in quad.ravel())
            + f" {self.classes[label].replace(' ', '-')} 0"
            for quad, label in zip(self.corners(), self.labels, strict=True)
        ]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
