import dataclasses
import json
import math
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from swath.core.errors import ConfigError
from swath.core.geo.raster import GeoImage, RasterInfo
from swath.core.inference.answers import CaptionResult, ClassificationResult, CountResult
from swath.core.inference.objects import DetectionResult

PLACE = RasterInfo(
    Path("a.tif"), 200, 100, crs=CRS.from_epsg(32633), transform=Affine(0.5, 0, 4e5, 0, -0.5, 5e6)
)


def result(boxes: list[list[float]]) -> DetectionResult:
    count = len(boxes)
    return DetectionResult(
        PLACE, ("plane", "small ship"), np.array(boxes), np.arange(count) % 2, np.full(count, 0.5)
    )


def test_corners_turn_clockwise_on_screen() -> None:
    quad = result([[50, 40, 20, 10, math.pi / 2]]).corners()[0]
    np.testing.assert_allclose(quad, [[55, 30], [55, 50], [45, 50], [45, 30]], atol=1e-9)
    quad = result([[10, 20, 30, 40]]).corners()[0]
    np.testing.assert_allclose(quad, [[10, 20], [30, 20], [30, 40], [10, 40]])


@pytest.mark.parametrize(("suffix", "epsg"), [(".gpkg", 32633), (".geojson", 4326)])
def test_polygons_lie_where_the_objects_are(tmp_path: Path, suffix: str, epsg: int) -> None:
    path = result([[50, 40, 20, 10, 0.3], [100, 50, 8, 6, 0]]).save(tmp_path / f"o{suffix}")
    table = gpd.read_file(path)
    assert pyogrio.list_layers(path)[:, 0].tolist() == ["objects"]  # not the temporary file's name
    assert table.crs.to_epsg() == epsg
    assert table["class"].tolist() == ["plane", "small ship"]
    placed = table.to_crs(32633)
    np.testing.assert_allclose(placed.area, [200 * 0.25, 48 * 0.25], rtol=1e-4)
    np.testing.assert_allclose(placed.centroid.x, [4e5 + 25, 4e5 + 50], atol=1e-3)
    np.testing.assert_allclose(placed.centroid.y, [5e6 - 20, 5e6 - 25], atol=1e-3)


def test_across_the_date_line_an_object_has_two_parts(tmp_path: Path) -> None:
    found = result([[100, 50, 40, 20, 0]])
    edge = Affine(0.01, 0, 179, 0, -0.01, 10)
    found.info = dataclasses.replace(PLACE, crs=CRS.from_epsg(4326), transform=edge)
    table = gpd.read_file(found.save(tmp_path / "o.geojson"))
    assert len(table) == 1
    assert sorted(part.bounds for part in table.geometry.iloc[0].geoms) == [
        pytest.approx((-180, 9.4, -179.8, 9.6)),
        pytest.approx((179.8, 9.4, 180, 9.6)),
    ]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson"])
def test_a_crs_without_a_transform_places_nothing(tmp_path: Path, suffix: str) -> None:
    found = result([[50, 40, 20, 10, 0]])
    found.info = dataclasses.replace(PLACE, transform=Affine.identity())
    assert found.to_gdf().crs is None
    table = gpd.read_file(found.save(tmp_path / f"o{suffix}"))
    assert table.total_bounds.tolist() == [40, 35, 60, 45]
    assert "a.tif has a CRS, but no transform" in str(found.info.note)


def test_in_a_local_crs_geojson_keeps_its_coordinates_and_says_so(tmp_path: Path) -> None:
    site = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    found = result([[50, 40, 20, 10, 0]])
    found.info = dataclasses.replace(PLACE, crs=site)
    with pytest.warns(UserWarning, match=r"a\.tif: nothing says where on earth its CRS lies"):
        path = found.save(tmp_path / "o.geojson")
    (feature,) = json.loads(path.read_text())["features"]
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert ring.min(0).tolist() == [4e5 + 20, 5e6 - 22.5]
    assert ring.max(0).tolist() == [4e5 + 30, 5e6 - 17.5]


def test_coco_and_dota_hold_the_same_objects(tmp_path: Path) -> None:
    found = result([[50, 40, 20, 10, 0], [100, 50, 8, 6, 0]])
    content = json.loads(found.save(tmp_path / "o.json").read_text())
    assert [a["bbox"] for a in content["annotations"]] == [[40, 35, 20, 10], [96, 47, 8, 6]]
    assert [a["category_id"] for a in content["annotations"]] == [1, 2]
    lines = found.save(tmp_path / "o.txt").read_text().splitlines()
    assert lines[0] == "40.00 35.00 60.00 35.00 60.00 45.00 40.00 45.00 plane 0"
    assert lines[1].endswith("small-ship 0")


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".json", ".txt"])
def test_nothing_found_is_a_file_too(tmp_path: Path, suffix: str) -> None:
    found = DetectionResult(PLACE, ("a",), np.zeros((0, 5)), np.zeros(0, int), np.zeros(0))
    assert found.save(tmp_path / f"o{suffix}").exists()


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg"])
@pytest.mark.filterwarnings("error:'crs' was not provided")
def test_objects_of_an_image_without_crs_lie_in_its_pixels(tmp_path: Path, suffix: str) -> None:
    boxes = np.array([[10.0, 20, 30, 40]])
    nowhere = RasterInfo(None, 200, 100, 3, "uint8")
    found = DetectionResult(nowhere, ("a",), boxes, np.zeros(1, int), np.ones(1))
    bounds = gpd.read_file(found.save(tmp_path / f"o{suffix}")).total_bounds
    np.testing.assert_allclose(bounds, boxes[0])


def test_outlines_lie_on_the_objects_of_the_picture() -> None:
    found = result([[50, 40, 20, 10, 0.0], [100, 50, 8, 6, 0.0]])
    found.image = GeoImage(np.zeros((3, 100, 200), np.uint8), np.ones((100, 200), bool), PLACE)
    figure = found.plot(side=100)  # half the size
    axes = figure.axes[0]
    assert np.shape(axes.images[0].get_array()) == (50, 100, 3)
    first = np.asarray(axes.patches[0].get_path().vertices, dtype=np.float64)
    np.testing.assert_allclose(first.min(axis=0), [40 / 2 - 0.5, 35 / 2 - 0.5])
    np.testing.assert_allclose(first.max(axis=0), [60 / 2 - 0.5, 45 / 2 - 0.5])
    assert [text.get_text() for text in axes.texts] == ["plane 0.50", "small ship 0.50"]
    assert not found.plot(min_score=0.6).axes[0].patches


def test_a_notebook_shows_picture_and_counts() -> None:
    text = result([[50, 40, 20, 10, 0.0], [100, 50, 8, 6, 0.0]])._repr_html_()
    assert "data:image/png;base64," in text
    assert "2 objects" in text
    assert "<td>small ship</td><td>1</td>" in text
    empty = DetectionResult(PLACE, ("a",), np.zeros((0, 5)), np.zeros(0, int), np.zeros(0))
    assert "0 objects" in empty._repr_html_()


def test_refuses_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"o\.xml.*use one of"):
        result([[1, 2, 3, 4]]).save(tmp_path / "o.xml")
    with pytest.raises(ValueError, match="1 boxes need as many labels"):
        DetectionResult(PLACE, ("a",), np.zeros((1, 4)), np.zeros(0, int), np.zeros(1))


def test_answers_are_saved_as_json(tmp_path: Path) -> None:
    answer = ClassificationResult(("a", "b"), (0.2, 0.8))
    assert answer.summary() == {"probabilities": {"a": 0.2, "b": 0.8}}
    assert answer.label == "b"
    saved = json.loads(answer.save(tmp_path / "a.json").read_text())
    assert (saved["label"], saved["classes"]) == ("b", ["a", "b"])
    assert json.loads(CountResult("ship", 3).save(tmp_path / "c.json").read_text())["count"] == 3
    assert "harbour" in CaptionResult("a <harbour>")._repr_html_()
    assert "&lt;harbour&gt;" in CaptionResult("a <harbour>")._repr_html_()
    bars = answer.plot().axes[0]
    assert [bar.get_width() for bar in bars.containers[0]] == [0.8, 0.2]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["b", "a"]
    with pytest.raises(ConfigError, match=r"saved as \.json"):
        CaptionResult("a harbour").save(tmp_path / "c.txt")


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_are_classes(label: int) -> None:
    with pytest.raises(ValueError, match="labels must be 0 to 1"):
        DetectionResult(PLACE, ("a", "b"), np.ones((1, 4)), np.array([label]), np.ones(1))
