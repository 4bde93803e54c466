"""What a segmentation comes out as: a class map that knows its place, classes and colours."""

import base64
import html
import io
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rasterio.windows import Window

from swath.core.errors import ConfigError, MissingDependencyError
from swath.core.files import atomic_path
from swath.core.geo.raster import GeoImage, RasterInfo, RasterWriter, read_image, remove_side_files
from swath.core.geo.windows import row_blocks
from swath.core.inference.tiler import Scene, label_dtype
from swath.core.palette import default_palette

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure
    from xarray import DataArray

_OBJECTS = (".geojson", ".gpkg", ".json", ".txt")
FORMATS: dict[str, tuple[str, ...]] = {
    "captioning": (".json",),
    "classification": (".json",),
    "counting": _OBJECTS,
    "detection": _OBJECTS,
    "multi-label classification": (".json",),
    "segmentation": (".tif", ".tiff", ".png", ".gpkg", ".geojson"),
    "several tasks": (),
}
"""Suffixes a result can be saved under, by the kind of task; none where it is a folder's worth."""

RASTER_SUFFIXES = (".tif", ".tiff")
"""What is written part by part."""

IN_MEMORY_BYTES = 512 << 20
"""Above this an unsaved map lives in a temporary file that the system pages in and out."""

Palette = tuple[tuple[int, int, int], ...]


@dataclass(eq=False)
class SegmentationResult:
    """A class map and what it takes to read, save and show it.

    Attributes:
        info: Its size, CRS and transform: those of the image.
        classes: Class names in index order.
        palette: RGB 0..255 of each class.
        counts: int64 ``(K,)``, pixels of each class.
        path: The GeoTIFF it was written to, or None.
        probabilities_path: The GeoTIFF of class probabilities, or None.
        image: The image it was made from (path or `GeoImage`), for pictures.
    """

    info: RasterInfo
    classes: tuple[str, ...]
    palette: Palette
    counts: NDArray[np.int64]
    path: Path | None = None
    probabilities_path: Path | None = None
    image: Any = field(default=None, repr=False)
    _mask: NDArray[Any] | None = field(default=None, repr=False)
    _probabilities: NDArray[np.float32] | None = field(default=None, repr=False)

    @property
    def nodata(self) -> int:
        """Value of pixels without data: 255, or 65535 for more than 255 classes."""
        return int(np.iinfo(label_dtype(len(self.classes))).max)

    @property
    def mask(self) -> NDArray[Any]:
        """``(H, W)`` class indices, uint8 or uint16; read from the file when first used.

        Raises:
            RasterError: If the file is gone or doesn't fit in memory.
        """
        if self._mask is None:
            assert self.path is not None  # it is either in memory or in a file
            self._mask = read_image(self.path).array[0]
        return self._mask

    @property
    def probabilities(self) -> NDArray[np.float32] | None:
        """``(K, H, W)`` float32, NaN where there is no data; None if they weren't asked for."""
        if self._probabilities is None and self.probabilities_path is not None:
            stored = read_image(self.probabilities_path)
            values = stored.array.astype(np.float32)
            if stored.array.dtype == np.uint8:
                values = np.where(stored.array == 255, np.nan, values / 254).astype(np.float32)
            self._probabilities = values
        return self._probabilities

    def shares(self) -> dict[str, float]:
        """Share of each class among the valid pixels, 0..1, by name."""
        total = max(int(self.counts.sum()), 1)
        return {
            name: int(count) / total for name, count in zip(self.classes, self.counts, strict=True)
        }

    def summary(self) -> dict[str, Any]:
        """``"valid_share"`` of the pixels, and ``"shares"`` of the classes among these."""
        pixels = self.info.width * self.info.height
        shares = {name: round(share, 6) for name, share in self.shares().items()}
        return {"valid_share": round(int(self.counts.sum()) / pixels, 6), "shares": shares}

    def save(self, path: str | Path) -> Path:
        """Write the map in the format its suffix says.

        Args:
            path: ``.tif`` (class map with the image's CRS, colours and names), ``.png`` (the same
                colours, no georeference), ``.gpkg`` (polygons in the image's CRS) or ``.geojson``
                (polygons in EPSG:4326).

        Returns:
            The path.

        Raises:
            ConfigError: If the suffix is none of these.
        """
        path = Path(path)
        check_format(path, "segmentation")
        suffix = path.suffix.lower()
        if suffix in RASTER_SUFFIXES:
            self._save_tiff(path)
        elif suffix == ".png":
            self._save_png(path)
        else:
            from swath.core.geo.vectorise import vectorise

            source = self.mask if self.path is None else self.path
            vectorise(source, path, info=self._mask_info(), classes=self.classes)
        return path

    def _mask_info(self) -> RasterInfo:
        dtype = label_dtype(len(self.classes)).__name__
        return replace(self.info, count=1, dtype=dtype, nodata=self.nodata, alpha=None)

    def _save_tiff(self, path: Path) -> None:
        if self.path is not None and self.path.exists():
            if path.exists() and path.samefile(self.path):
                return
            with atomic_path(path) as temporary:
                shutil.copyfile(self.path, temporary)
            remove_side_files(path)
            names = self.path.with_name(f"{self.path.name}.aux.xml")  # for GIS programs
            if names.exists():
                with atomic_path(path.with_name(f"{path.name}.aux.xml")) as temporary:
                    shutil.copyfile(names, temporary)
            return
        with _mask_writer(path, self.info, self.classes, self.palette) as writer:
            for window in row_blocks(self.info.height, self.info.width, 512):
                top = window.row_off
                writer.write(window, self.mask[top : top + window.height])

    def _save_png(self, path: Path) -> None:
        with atomic_path(path) as temporary:
            picture = Image.fromarray(np.ascontiguousarray(self.mask))
            if self.mask.dtype == np.uint8:
                picture = picture.convert("P")
                colours = np.zeros((256, 3), np.uint8)
                colours[: len(self.palette)] = self.palette
                picture.putpalette(colours.tobytes())
            picture.save(temporary, transparency=self.nodata)

    def plot(self, alpha: float = 0.5, side: int = 1400) -> "Figure":
        """The map over its image, with a legend; a class in black, as backgrounds are, stays clear.

        Args:
            alpha: Opacity of the classes.
            side: Longest side of the picture in pixels; larger scenes are thinned out.

        Raises:
            ConfigError: If ``alpha`` or ``side`` is out of range.
        """
        from swath.core.viz.figures import panels

        present = [i for i, count in enumerate(self.counts) if count]
        return panels(
            {"": self._overlay(alpha, side)},
            classes=[self.classes[i] for i in present],
            palette=[self.palette[i] for i in present],
            side=8,
        )

    def _overlay(self, alpha: float, side: int) -> NDArray[np.uint8]:
        from swath.core.viz.overlay import overlay
        from swath.core.viz.scene import picture, read_small

        if not 0 <= alpha <= 1:
            raise ConfigError(f"alpha={alpha} must be between 0 and 1")
        shown = picture(self.image, self.info, side)
        height, width = shown.shape[:2]
        if self._mask is None and self.path is not None and not isinstance(self.image, GeoImage):
            drawn = read_small(self.path, side)[0][0]
        else:
            rows = (np.arange(height) + 0.5) * self.info.height / height
            columns = (np.arange(width) + 0.5) * self.info.width / width
            drawn = self.mask[np.ix_(rows.astype(int), columns.astype(int))]
        black = [i for i, colour in enumerate(self.palette) if not any(colour)]
        return overlay(shown, drawn, self.palette, alpha, hide=black)

    def to_gdf(self) -> "GeoDataFrame":
        """Polygons with ``class``, ``class_id`` and ``area_m2``, in the image's CRS."""
        from swath.core.geo.vectorise import to_geodataframe

        source = self.mask if self.path is None else self.path
        return to_geodataframe(source, info=self._mask_info(), classes=self.classes)

    def to_xarray(self) -> "DataArray":
        """The map as an ``xarray.DataArray`` with coordinates and CRS.

        Raises:
            MissingDependencyError: If the extra ``xarray`` isn't installed.
        """
        try:
            import rioxarray  # noqa: F401  (registers the .rio accessor)
            import xarray
        except ImportError as error:
            raise MissingDependencyError(
                "to_xarray needs xarray and rioxarray; pip install 'swath-core[xarray]'"
            ) from error
        array = xarray.DataArray(
            self.mask, dims=("y", "x"), name="class", attrs={"classes": list(self.classes)}
        )
        array = array.rio.write_transform(self.info.transform).rio.write_nodata(self.nodata)
        if self.info.placed:
            array = array.rio.write_crs(self.info.crs)
        return array.assign_coords(_pixel_centres(self.info))

    def _repr_html_(self) -> str:
        picture = Image.fromarray(self._overlay(0.5, 320))
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        data = base64.b64encode(stream.getvalue()).decode()
        rows = "".join(
            f'<tr><td style="background:rgb{self.palette[i]}">&emsp;</td>'
            f"<td>{html.escape(name)}</td><td>{share:.1%}</td></tr>"
            for i, (name, share) in enumerate(self.shares().items())
            if self.counts[i]
        )
        crs = self.info.crs.to_string() if self.info.crs is not None else "no CRS"
        return (
            f'<div style="display:flex;gap:1em"><img alt="class map" src="data:image/png;base64,'
            f'{data}"><div><b>SegmentationResult</b> {self.info.width} × {self.info.height}, '
            f"{html.escape(crs)}<table>{rows}</table></div></div>"
        )


def check_format(path: Path, kind: str) -> None:
    """Refuse a suffix under which results of this kind of task can't be saved.

    Raises:
        ConfigError: With the suffixes that can.
    """
    known, suffix = FORMATS.get(kind), path.suffix.lower()
    if known and suffix not in known:
        raise ConfigError(
            f"{path}: a {kind} result can't be saved as '{path.suffix}'; use one of "
            f"{', '.join(known)}"
        )
    if known == () and any(suffix in suffixes for suffixes in FORMATS.values()):
        raise ConfigError(
            f"{path}: the results of {kind} go into a folder; leave '{path.suffix}' out, or choose "
            "one task"
        )


def probabilities_path(out: Path) -> Path:
    """Where the class probabilities of a class map go."""
    return out.with_name(f"{out.stem}_probabilities.tif")


class Sink(Protocol):
    """Takes the finished parts of a class map."""

    def write(
        self, window: Window, labels: NDArray[Any], probabilities: NDArray[np.float32] | None
    ) -> None:
        """Store labels ``(h, w)`` and probabilities ``(K, h, w)``, if they are kept."""

    def result(self, counts: NDArray[np.int64]) -> SegmentationResult:
        """The whole, once everything has been written and closed."""


@contextmanager
def segmentation_sink(scene: Scene) -> Iterator[Sink]:
    """Where the parts of a scene's map go: files if ``scene.out`` is set, memory otherwise.

    Files appear under their final names when the block succeeds, and not at all otherwise.
    """
    task = scene.task
    classes, palette = tuple(task.classes), _palette(task)
    if scene.out is None:
        yield _MemorySink(scene, classes, palette)
        return
    with ExitStack() as stack:
        mask = stack.enter_context(_mask_writer(scene.out, scene.info, classes, palette))
        probabilities = None
        if scene.probabilities:
            probabilities = stack.enter_context(
                RasterWriter(
                    probabilities_path(scene.out),
                    scene.info,
                    count=len(classes),
                    dtype=scene.probabilities,
                    nodata=255 if scene.probabilities == "uint8" else np.nan,
                    descriptions=classes,
                )
            )
        yield _FileSink(scene, classes, palette, mask, probabilities)


def _mask_writer(
    path: Path, info: RasterInfo, classes: tuple[str, ...], palette: Palette
) -> RasterWriter:
    dtype = label_dtype(len(classes))
    return RasterWriter(
        path,
        info,
        dtype=dtype.__name__,
        nodata=int(np.iinfo(dtype).max),
        palette=palette,
        classes=classes,
        overviews=max(info.height, info.width) > 2048,
    )


@dataclass
class _FileSink:
    scene: Scene
    classes: tuple[str, ...]
    palette: Palette
    mask: RasterWriter
    probabilities: RasterWriter | None

    def write(
        self, window: Window, labels: NDArray[Any], probabilities: NDArray[np.float32] | None
    ) -> None:
        self.mask.write(window, labels)
        if self.probabilities is not None and probabilities is not None:
            if self.scene.probabilities == "uint8":
                scaled = np.nan_to_num(np.rint(probabilities * 254), nan=255)
                self.probabilities.write(window, scaled.astype(np.uint8))
            else:
                self.probabilities.write(window, probabilities)

    def result(self, counts: NDArray[np.int64]) -> SegmentationResult:
        return SegmentationResult(
            info=self.scene.info,
            classes=self.classes,
            palette=self.palette,
            counts=counts,
            path=self.mask.path,
            probabilities_path=self.probabilities.path if self.probabilities else None,
            image=self.scene.image,
        )


class _MemorySink:
    def __init__(self, scene: Scene, classes: tuple[str, ...], palette: Palette) -> None:
        self._scene, self._classes, self._palette = scene, classes, palette
        dtype = label_dtype(len(classes))
        shape = scene.info.height, scene.info.width
        self._mask = _filled(shape, dtype, np.iinfo(dtype).max)
        self._probabilities = None
        if scene.probabilities:
            self._probabilities = _filled((len(classes), *shape), np.float32, np.nan)

    def write(
        self, window: Window, labels: NDArray[Any], probabilities: NDArray[np.float32] | None
    ) -> None:
        here = window.toslices()
        self._mask[here] = labels
        if self._probabilities is not None and probabilities is not None:
            self._probabilities[:, *here] = probabilities

    def result(self, counts: NDArray[np.int64]) -> SegmentationResult:
        return SegmentationResult(
            info=self._scene.info,
            classes=self._classes,
            palette=self._palette,
            counts=counts,
            image=self._scene.image,
            _mask=self._mask,
            _probabilities=self._probabilities,
        )


def _filled(shape: tuple[int, ...], dtype: Any, value: float) -> NDArray[Any]:
    """An array full of ``value``, in a temporary file if it is large."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY_BYTES:
        return np.full(shape, value, dtype=dtype)
    folder = tempfile.TemporaryDirectory(prefix="swath-")
    array = np.memmap(Path(folder.name) / "array", dtype=dtype, mode="w+", shape=shape)
    array.fill(value)
    weakref.finalize(array, folder.cleanup)
    return array


def _palette(task: Any) -> Palette:
    given = getattr(task, "palette", None)
    colours = given if given is not None else default_palette(len(task.classes))
    return tuple((int(r), int(g), int(b)) for r, g, b in colours)


def _pixel_centres(info: RasterInfo) -> dict[str, Any]:
    """Coordinates of rows and columns; none for a rotated grid, whose transform says it all."""
    t = info.transform
    if t.b or t.d:
        return {}
    return {
        "x": t.c + (np.arange(info.width) + 0.5) * t.a,
        "y": t.f + (np.arange(info.height) + 0.5) * t.e,
    }
