"""Data sets as their papers lay them out, their augmentation, and archives in parts."""

import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torchvision import tv_tensors
from typer.testing import CliRunner

from swath.core.data.catalogue import catalogue
from swath.core.data.segmentation import CatalogueSegmentation
from swath.core.errors import DataError
from swath.core.sample import Sample
from swath.ovseg.augment import SSDColour, published_augment
from swath.ovseg.cli import landdiscover
from swath.ovseg.datasets import BENCHMARKS, DATASETS
from swath.ovseg.split_zip import join_zip
from swath.ovseg.task import OpenVocabularyTask

COPIES = {
    "landdiscover50k": ("LandDiscover50K/TR_Image/P1.png", "LandDiscover50K/GT_ID/P1.png"),
    "gsnet-floodnet": ("FloodNet/val+test/img/6279.jpg", "FloodNet/val+test/lbl/6279.png"),
    "gsnet-flair": ("FLAIR/test/image/1.png", "FLAIR/test/mask/1.png"),
    "gsnet-fast": ("FAST/val/images/a.png", "FAST/val/semlabels/gray/a.png"),
    "gsnet-potsdam": ("PotsdamSplit/img_dir/val/2_13.png", "PotsdamSplit/ann_dir/val/2_13.png"),
    "ovrsis-dlrsd": ("DLRSD/imgs/airplane00.jpg", "DLRSD/D2masks/airplane00.png"),
    "ovrsis-isaid": ("iSAID/imgs/P0003_0.png", "iSAID/D2masks/P0003_0.png"),
    "ovrsis-potsdam": ("Potsdam/imgs/2_10.png", "Potsdam/D2masks/2_10.png"),
    "ovrsis-vaihingen": ("Vaihingen/imgs/area1.png", "Vaihingen/D2masks/area1.png"),
    "ovrsis-loveda": ("LoveDA/images_png/0.png", "LoveDA/masks_png/0.png"),
    "ovrsis-uavid": ("uavid/Images/1.png", "uavid/Labels/1.png"),
    "ovrsis-udd5": ("UDD5/all/src/1.JPG", "UDD5/all/gt/1.png"),
    "ovrsis-vdd": ("VDD/src/1.JPG", "VDD/gt/1.png"),
}
"""An image and a mask of each, as section 9 of the dossier lists them."""


def fake(root: Path, image: str, mask: str, labels: int, ignore: int) -> None:
    for name in (image, mask):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(root / image)
    values = np.arange(64).reshape(8, 8) % labels
    values[0, 0] = ignore
    Image.fromarray(values.astype(np.uint8)).save(root / mask)


@pytest.mark.parametrize("spec", DATASETS, ids=lambda spec: spec.name)
def test_every_set_reads_a_copy_laid_out_as_published(spec, tmp_path: Path) -> None:
    protocol = spec.protocol()
    fake(tmp_path, *COPIES[spec.name], len(protocol.classes), protocol.ignore_index)
    (item,) = CatalogueSegmentation(spec.name, tmp_path / spec.folder, "all")
    assert catalogue()[spec.name] is spec
    mask = item.targets["mask"]
    assert int(mask[0, 0]) == protocol.ignore_index
    assert int(mask[mask != protocol.ignore_index].max()) == len(protocol.classes) - 1
    OpenVocabularyTask(protocol.classes, ignore_index=protocol.ignore_index).collate([item])


def test_the_training_sets_come_in_two_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        image, mask = f"DLRSD_split/{split}/imgs/a.jpg", f"DLRSD_split/{split}/D2masks/a.png"
        fake(tmp_path, image, mask, 17, 255)
    for split in ("train", "val"):
        assert len(CatalogueSegmentation("ovrsis-dlrsd", tmp_path / "DLRSD_split", split)) == 1


def test_fast_is_found_where_the_official_code_looks_for_it(tmp_path: Path) -> None:
    image, mask = (f"SAMRS/FAST/val/{folder}/a.png" for folder in ("images", "semlabels/gray"))
    fake(tmp_path, image, mask, 37, 255)
    assert len(CatalogueSegmentation("gsnet-fast", tmp_path, "all")) == 1


def test_the_benchmarks_are_the_papers() -> None:
    assert len(BENCHMARKS["gsnet"]) == 4
    assert len(BENCHMARKS["ovrsisbench"]) == 8


def sample() -> Sample:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 100, 150), dtype=torch.uint8)
    mask = torch.randint(0, 3, (100, 150), dtype=torch.uint8)
    return Sample(tv_tensors.Image(image), {"mask": tv_tensors.Mask(mask)})


def test_the_published_augmentation_gives_crops() -> None:
    torch.manual_seed(0)
    out = sample().map(published_augment(size=96, shortest_edge=[64], ignore_index=255))
    assert out.image.shape == (3, 96, 96)
    assert out.targets["mask"].shape == (96, 96)
    padded = out.targets["mask"] == 255
    assert padded.float().mean() == pytest.approx(1 - 64 / 96, abs=0.01)


def test_colours_change_and_labels_dont() -> None:
    torch.manual_seed(1)
    before = sample()
    after = before.map(SSDColour())
    assert after.image.dtype == torch.uint8
    assert not torch.equal(after.image, before.image)
    assert torch.equal(after.targets["mask"], before.targets["mask"])
    still = SSDColour().transform(before.image, {"changes": []})
    assert torch.equal(still, before.image)
    bright = SSDColour().transform(before.image, {"changes": [{"offset": 300.0}]})
    assert (bright == 255).all()
    grey = SSDColour().transform(before.image, {"changes": [{"saturation": 0.0}]})
    assert (grey.amax(0) == grey.amin(0)).all()


@pytest.mark.parametrize(("bands", "dtype"), [(1, torch.uint8), (4, torch.uint8), (3, torch.int16)])
def test_images_that_are_no_8_bit_rgb_change_too(bands: int, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    image = tv_tensors.Image(torch.randint(0, 250, (bands, 20, 24)).to(dtype))
    after = SSDColour()(image)
    assert after.shape == image.shape
    assert after.dtype == dtype
    assert not torch.equal(after, image)


def split(archive: Path, sizes: list[int]) -> list[Path]:
    """Cut an archive as ``zip -s`` does: places count from the beginning of a part."""
    content = archive.read_bytes()
    starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    end = content.rfind(b"PK\x05\x06")
    _, _, count, _, size, table = struct.unpack("<4H2L", content[end + 4 : end + 20])
    at, patched = table, bytearray(content)

    def place(offset: int) -> tuple[int, int]:
        disk = max(i for i, start in enumerate(starts) if start <= offset)
        return disk, offset - starts[disk]

    for _ in range(count):
        name, extra, comment = struct.unpack("<3H", content[at + 28 : at + 34])
        (offset,) = struct.unpack("<L", content[at + 42 : at + 46])
        disk, inside = place(offset)
        patched[at + 34 : at + 36] = struct.pack("<H", disk)
        patched[at + 42 : at + 46] = struct.pack("<L", inside)
        at += 46 + name + extra + comment
    disk, inside = place(table)
    patched[end + 4 : end + 20] = struct.pack("<4H2L", len(sizes), disk, count, count, size, inside)
    parts = []
    for number, start in enumerate(starts):
        stop = starts[number + 1] if number < len(sizes) else None
        suffix = ".zip" if stop is None else f".z{number + 1:02d}"
        parts.append(archive.with_name(f"parts{suffix}"))
        parts[-1].write_bytes(patched[start:stop])
    return parts


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "whole.zip"
    with zipfile.ZipFile(path, "w") as target:
        for number in range(9):
            noise = np.random.default_rng(number).bytes(3000)
            target.writestr(f"TR_Image/{number}.png", noise)
    return path


def test_parts_become_an_archive_that_opens(archive: Path, tmp_path: Path) -> None:
    *_, last = split(archive, [10_000, 10_000])
    with zipfile.ZipFile(join_zip(last, tmp_path / "joined.zip")) as joined:
        assert joined.testzip() is None
        with zipfile.ZipFile(archive) as whole:
            for name in whole.namelist():
                assert joined.read(name) == whole.read(name)


def test_the_command_joins_them(archive: Path, tmp_path: Path) -> None:
    *_, last = split(archive, [10_000])
    app = typer.Typer()
    app.command()(landdiscover)
    done = CliRunner().invoke(app, [str(last), "--out", str(tmp_path / "joined.zip")])
    assert done.exit_code == 0
    assert zipfile.ZipFile(tmp_path / "joined.zip").testzip() is None


def test_joining_replaces_nothing_and_wants_the_last_part(archive: Path, tmp_path: Path) -> None:
    first, last = split(archive, [10_000])
    for present in (archive, first, last):
        before = present.read_bytes()
        with pytest.raises(DataError, match=f"{present.name} exists"):
            join_zip(last, present)
        assert present.read_bytes() == before
    with pytest.raises(DataError, match=r"parts\.z01: give the last part, the one named \.zip"):
        join_zip(first, tmp_path / "joined.zip")


def test_a_half_joined_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    first, second, last = split(archive, [10_000, 10_000])
    second.unlink()
    with pytest.raises(DataError, match=r"says that it is part 3, but there are 2 parts"):
        join_zip(last, tmp_path / "joined.zip")
    second.write_bytes(first.read_bytes()[:5000])
    with pytest.raises(DataError, match="don't belong together"):
        join_zip(last, tmp_path / "joined.zip")
    first.unlink()
    with pytest.raises(DataError, match=r"parts.z01: this part of the archive is missing"):
        join_zip(last, tmp_path / "joined.zip")
    last.write_bytes(last.read_bytes()[:-30])
    first.write_bytes(b"x")
    with pytest.raises(DataError, match="cut off, or no zip archive"):
        join_zip(last, tmp_path / "joined.zip")
    assert not (tmp_path / "joined.zip").exists()
