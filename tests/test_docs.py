"""Runs the code of the guides and of the README, page by page, in a folder with generated data, and
the examples.

Of ```bash blocks every line that begins with ``swath `` is run; ```python blocks are run in one
namespace a page, or written to a file if their first line is a comment that names one. Training is
cut to a few steps.
"""

import re
import runpy
import shlex
import shutil
from contextlib import chdir
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin
from shapely.geometry import box
from typer.testing import CliRunner

from swath.core.cli.app import app

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    *sorted((ROOT / "docs/guides").glob("*.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"# ([\w.-]+\.py)\n")
TOO_LONG = ("swath demo",)  # has a test of its own


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def write_raster(path: Path, array: np.ndarray) -> None:
    count, height, width = array.shape
    place = {"crs": "EPSG:32736", "transform": from_origin(450_000, 40_000, 0.5, 0.5)}
    with rasterio.open(
        path, "w", "GTiff", width, height, count, dtype=array.dtype, **place
    ) as sink:
        sink.write(array)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages assume: scenes, folders with masks and boxes, polygons, and a run."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    write_raster(folder / "scene.tif", rng.integers(0, 255, (3, 200, 220), dtype=np.uint8))
    write_raster(folder / "town.tif", rng.integers(0, 255, (3, 256, 256), dtype=np.uint8))
    write_raster(folder / "scene16.tif", rng.integers(0, 3000, (4, 96, 96), dtype=np.uint16))
    write_raster(folder / "map.tif", rng.integers(0, 7, (1, 64, 64), dtype=np.uint8))
    houses = [box(450_010 + 25 * i, 39_900, 450_025 + 25 * i, 39_990) for i in range(4)]
    geopandas.GeoDataFrame(geometry=houses, crs="EPSG:32736").to_file(folder / "buildings.gpkg")
    for kind in ("images", "masks"):
        (folder / "data" / kind).mkdir(parents=True)
    for name in "abcd":
        mask = (rng.random((96, 96)) > 0.5).astype(np.uint8)
        noise = rng.integers(0, 100, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise + 120 * mask[..., None]).save(folder / f"data/images/{name}.png")
        Image.fromarray(mask).save(folder / f"data/masks/{name}.png")
    (folder / "data/labelTxt").mkdir()
    for name in "abcd":
        line = "20 20 60 30 57 42 17 32 ship 0\n"
        (folder / f"data/labelTxt/{name}.txt").write_text(line)
    (folder / "data/train.txt").write_text("a\nb\nc\n")
    (folder / "data/val.txt").write_text("d\n")
    for name in ("archive", "archive16"):
        (folder / name).mkdir()
    for i in range(4):
        blotches = np.kron(rng.integers(0, 256, (3, 5, 5)), np.ones((1, 20, 20)))
        write_raster(folder / f"archive/{i}.tif", blotches.astype(np.uint8))
    write_raster(folder / "archive16/0.tif", (11 * blotches).astype(np.uint16))
    (folder / "archive/list.txt").write_text("0.tif\n1.tif masks/1.png\n")
    run = folder / "runs" / "first"
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "val": {"mIoU": 0.4}}\n')
    return folder


def run_command(line: str) -> None:
    arguments = shlex.split(line, comments=True)[1:]
    if arguments[0] == "train":
        arguments.append("--smoke")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"{line}: {result.output}\n{result.exception}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_of_the_page_runs(page: Path, workplace: Path, tmp_path: Path) -> None:
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    namespace: dict[str, object] = {}
    with chdir(tmp_path):
        for language, code in blocks(page):
            file = FILE_NAME.match(code)
            if language == "python" and file:
                Path(file.group(1)).write_text(code, encoding="utf-8")
            elif language == "python":
                exec(compile(code, str(page), "exec"), namespace)
            elif language == "bash":
                for line in code.splitlines():
                    if line.startswith("swath ") and not line.startswith(TOO_LONG):
                        run_command(line)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
def test_every_example_runs_and_is_short(script: Path, tmp_path: Path) -> None:
    assert len(script.read_text(encoding="utf-8").splitlines()) < 60
    with chdir(tmp_path):
        runpy.run_path(str(script), run_name="__main__")


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert page.relative_to(ROOT / "docs").as_posix() in nav


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES[1:]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
