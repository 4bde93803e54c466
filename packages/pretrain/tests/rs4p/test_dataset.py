import io
import json
import pickle
import re
import shutil
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from swath.core.data.loader import EpochSampler, make_loader
from swath.core.data.preview import contact_sheet
from swath.core.data.radiometry import Radiometry
from swath.core.data.segmentation import FolderSegmentation
from swath.core.data.spec import Protocol
from swath.core.errors import ConfigError, DataError
from swath.core.inference.predictor import Predictor
from swath.core.segmentation import SegmentationTask
from swath.pretrain.rs4p.dataset import ShardDataset, UnlabelledFolder
from swath.pretrain.rs4p.pipeline import prepare
from swath.pretrain.rs4p.recipe import Recipe
from swath.pretrain.rs4p.shards import tar_members, write_shard
from swath.pretrain.semi_supervised import SemiSupervised
from swath.pretrain.task import S4PTask
from swath.pretrain.views import S4PViews

CLASSES = ("ground", "roof")


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def image_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def foreign(folder: Path, shards: int, each: int, **masks: np.ndarray) -> Path:
    """Shards as others make them: image and mask, no index, no manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        pieces = []
        for number in range(shard * each, (shard + 1) * each):
            mask = masks.get(f"n{number}", (image_of(number)[..., 0] > 127).astype(np.uint8))
            members = [(f"n{number}.png", png(image_of(number))), (f"n{number}.seg.png", png(mask))]
            pieces.append(tar_members(members)[0])
        write_shard(folder / f"{shard:03}.tar", pieces)
    return folder


@pytest.fixture
def prepared(archive: Path, tmp_path: Path, model: Predictor) -> Path:
    recipe = Recipe(tile=64, min_size=32, min_confident=0.0, image_format="png", shard_mb=0.03)
    prepare([archive], tmp_path / "out", model, recipe, workers=0)
    return tmp_path / "out"


def test_shards_of_others_are_read_without_an_index(tmp_path: Path) -> None:
    dataset = ShardDataset(foreign(tmp_path / "s", 3, 4), labels=True, protocol=Protocol(CLASSES))
    assert list(dataset.ids) == [f"n{i}" for i in range(12)]
    for i in range(12):
        sample = dataset[i]
        np.testing.assert_array_equal(sample.image, image_of(i).transpose(2, 0, 1))
        np.testing.assert_array_equal(sample.targets["mask"], image_of(i)[..., 0] > 127)
    assert sample.meta["path"] == str(tmp_path / "s/002.tar/n11")
    assert (tmp_path / "s/000.tar.index.npy").is_file()


@pytest.mark.parametrize("manifest", ["{", "[]", '{"version": 2}', '{"shards": ["x.tar"]}'])
def test_a_manifest_of_others_is_passed_over(tmp_path: Path, manifest: str) -> None:
    foreign(tmp_path / "s", 1, 2)
    (tmp_path / "s/manifest.json").write_text(manifest)
    assert list(ShardDataset(tmp_path / "s").ids) == ["n0", "n1"]


def test_what_we_write_is_a_plain_tar_that_anyone_reads(prepared: Path) -> None:
    dataset = ShardDataset(prepared)
    seen = 0
    for path in dataset.shards:
        with tarfile.open(path) as tape:
            names = [member.name for member in tape]
            for name in names[::4]:
                with Image.open(tape.extractfile(name)) as image:  # type: ignore[arg-type]
                    wanted = dataset[list(dataset.ids).index(name.partition(".")[0])].image
                    np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), wanted)
        suffixes = [name.partition(".")[2] for name in names]
        assert suffixes[1:4] == ["mask.png", "conf.png", "json"]
        seen += len(names) // 4
    assert seen == len(dataset)


def test_the_index_and_a_scan_of_the_headers_say_the_same(prepared: Path) -> None:
    indexed = ShardDataset(prepared, labels=True)
    for extra in ("index.npy", "manifest.json"):
        (prepared / extra).unlink()
    scanned = ShardDataset(prepared, labels=True, protocol=Protocol(indexed.classes))
    assert list(scanned.ids) == list(indexed.ids)
    for i in range(len(indexed)):
        assert indexed[i].image.equal(scanned[i].image)
        for name in ("mask", "confidence"):
            assert indexed[i].targets[name].equal(scanned[i].targets[name])


def test_doubtful_pixels_can_be_ignored(prepared: Path) -> None:
    plain, sure = (ShardDataset(prepared, labels=True, min_confidence=c) for c in (0.0, 0.9))
    ignored = 0
    for a, b in zip(plain, sure, strict=True):
        doubtful = a.targets["confidence"].numpy() < 0.9 * 255
        wanted = np.where(doubtful, 255, a.targets["mask"].numpy())
        np.testing.assert_array_equal(b.targets["mask"], wanted)
        ignored += int(doubtful.sum())
    assert ignored > 0


def test_processes_share_no_file(prepared: Path) -> None:
    dataset = ShardDataset(prepared)
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=None, num_workers=2)
    for i, sample in enumerate(loader):
        assert sample.image.equal(dataset[i].image)
    assert i == len(dataset) - 1


def test_a_copy_for_another_process_is_small_and_opens_the_index_itself(prepared: Path) -> None:
    dataset = ShardDataset(prepared, labels=True)
    copied = pickle.dumps(dataset)
    assert len(copied) < 6_000
    again = pickle.loads(copied)
    assert list(again.ids) == list(dataset.ids)
    assert again[2].targets["mask"].equal(dataset[2].targets["mask"])


def test_an_epoch_reads_every_sample_once_and_a_few_shards_at_a_time(tmp_path: Path) -> None:
    dataset = ShardDataset(foreign(tmp_path / "s", 7, 5), window=3)
    shard_of = np.repeat(np.arange(7), 5)
    orders = [dataset.epoch_order(1, epoch) for epoch in range(4)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(35))
        groups = [set(shard_of[order[i : i + 15]].tolist()) for i in (0, 15, 30)]
        assert [len(g) for g in groups] == [3, 3, 1]
        assert not groups[0] & groups[1]
        assert len(set(np.diff(shard_of[order[:15]]).tolist())) > 2  # shuffled inside
    assert [dataset.neighbours(i) for i in (0, 14, 34)] == [range(5), range(10, 15), range(30, 35)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    np.testing.assert_array_equal(dataset.epoch_order(1, 2), orders[2])
    assert dataset.epoch_order(2, 2).tolist() != orders[2].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_in_the_middle_of_a_shard(tmp_path: Path, workers: int) -> None:
    dataset = ShardDataset(foreign(tmp_path / "s", 4, 5), window=2)
    task = SegmentationTask(CLASSES)

    def ids(start: int, rank: int = 0, world_size: int = 1, count: int = 12) -> list[str]:
        loader: DataLoader[Any] = make_loader(
            dataset, task, batch_size=3, shuffle=True, seed=5, start=start, rank=rank,
            world_size=world_size, num_workers=workers if start else 0,
        )  # fmt: skip
        return [m["id"] for batch in islice(loader, count) for m in batch["meta"]]

    whole = ids(0)
    assert sorted(whole[:20]) == sorted(dataset.ids)
    assert whole[:20] == [dataset.ids[i] for i in dataset.epoch_order(5, 0).tolist()]
    assert ids(9)[:20] == whole[9:29]
    ranks = [ids(6, rank, 2, count=4) for rank in (0, 1)]
    dealt = [i for a in range(0, 12, 3) for rank in ranks for i in rank[a : a + 3]]
    assert dealt == whole[12:36]


def test_the_sampler_reads_in_the_sets_order_on_every_rank(tmp_path: Path) -> None:
    dataset = ShardDataset(foreign(tmp_path / "s", 4, 5), window=1)
    shares = [
        list(islice(EpochSampler(20, seed=3, rank=r, world_size=2, order=dataset.epoch_order), 10))
        for r in (0, 1)
    ]
    assert sorted(index for share in shares for _, index in share) == list(range(20))
    for share in shares:
        assert len({index // 5 for _, index in share[:2]}) == 1


def test_a_mask_out_of_range_is_named(tmp_path: Path) -> None:
    wrong = np.zeros((16, 24), np.uint8)
    wrong[3, 7] = 9
    dataset = ShardDataset(
        foreign(tmp_path / "s", 1, 3, n1=wrong), labels=True, protocol=Protocol(CLASSES)
    )
    assert dataset[0].targets
    with pytest.raises(DataError, match=r"000\.tar/n1\.mask\.png: label value 9 in 1 pixel.*row 3"):
        dataset[1]
    small = ShardDataset(
        foreign(tmp_path / "t", 1, 1, n0=wrong[:5]), labels=True, protocol=Protocol(CLASSES)
    )
    with pytest.raises(DataError, match=r"n0: the mask has 24 x 5 pixels, the image 24 x 16"):
        small[0]


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    damaged = png(image_of(0))[:-40]
    write_shard(tmp_path / "a.tar", [tar_members([("k.png", damaged)])[0]])
    with pytest.raises(DataError, match=r"a\.tar/k: damaged or truncated"):
        ShardDataset(tmp_path / "a.tar")[0]


def test_the_next_sample_takes_the_place_of_a_broken_one(tmp_path: Path) -> None:
    wrong = np.full((16, 24), 9, np.uint8)
    folder = foreign(tmp_path / "s", 2, 5, n3=wrong)
    known = ShardDataset(folder)._index[6]
    with (folder / "001.tar").open("r+b") as shard:
        shard.seek(int(known["image_at"]) + 60)
        shard.write(bytes(200))
    read = {"labels": True, "protocol": Protocol(CLASSES)}
    dataset = ShardDataset(folder, max_broken=0.2, **read)
    loader = make_loader(
        dataset, SegmentationTask(CLASSES), batch_size=1, shuffle=False, num_workers=2
    )
    with pytest.warns(UserWarning, match=r"n3\.mask\.png: label value 9.*takes its place"):
        seen = [dataset[i].meta["id"] for i in (2, 3)]
    assert seen == ["n2", "n4"]
    ids = [meta["id"] for batch in islice(loader, 10) for meta in batch["meta"]]
    assert ids == ["n0", "n1", "n2", "n4", "n4", "n5", "n7", "n7", "n8", "n9"]
    (remark,) = dataset.remarks()
    assert re.search(r"2 of 10 images can't be read \(.*000\.tar/n3\..*; .*001\.tar/n6: ", remark)
    assert SemiSupervised([], dataset).remarks() == [remark]
    few = ShardDataset(folder, max_broken=0.1, **read)
    with pytest.warns(UserWarning, match="n3"):
        few[3]
    with pytest.raises(DataError, match=r"2 of 10 images.*more than max_broken=0\.1 allows"):
        few[6]


def with_nodata(folder: Path, names: str) -> Path:
    """GeoTIFFs whose left edge, 20 pixels wide, is nodata."""
    folder.mkdir(parents=True)
    for name in names:
        pixels = np.random.default_rng(ord(name)).integers(1, 256, (3, 64, 64), np.uint8)
        pixels[:, :, :20] = 0
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", width=64, height=64, count=3,
            dtype="uint8", nodata=0, crs="EPSG:32633", transform=rasterio.Affine(2, 0, 0, 0, -2, 0),
        ) as sink:  # fmt: skip
            sink.write(pixels)
    return folder


@pytest.fixture
def two_archives(tmp_path: Path, model: Predictor) -> Path:
    """``p1`` with two samples and ``p2`` with one, as two nodes prepare them."""
    recipe = Recipe(tile=64, min_size=32, min_confident=0.0, image_format="png")
    for part, names in (("p1", "ab"), ("p2", "c")):
        scenes = with_nodata(tmp_path / "scenes" / part, names)
        prepare([scenes], tmp_path / "all" / part, model, recipe, workers=0)
    return tmp_path / "all"


def test_nodata_is_known_wherever_our_shards_lie(two_archives: Path) -> None:
    lonely = two_archives / "copy"
    lonely.mkdir()
    shutil.copy(two_archives / "p1/rs4p-000000.tar", lonely / "x.tar")
    for root in (two_archives, two_archives / "p1/rs4p-000000.tar", lonely):
        dataset = ShardDataset(root)
        for i in range(len(dataset)):
            valid = dataset[i].valid
            assert valid is not None
            np.testing.assert_array_equal(valid, [[column >= 20 for column in range(64)]] * 64)
    (two_archives / "p2/index.npy").unlink()
    assert int((~ShardDataset(two_archives / "p2")[0].valid).sum()) == 1280  # type: ignore[operator]


def test_archives_are_joined(two_archives: Path) -> None:
    apart = [ShardDataset(two_archives / name, labels=True) for name in ("p1", "p2")]
    roots = [two_archives / "p1", two_archives / "p2"]
    for root in (two_archives, roots):
        dataset = ShardDataset(root, labels=True, window=1)
        assert dataset.classes == apart[0].classes
        assert list(dataset.ids) == [*apart[0].ids, *apart[1].ids]
        for i, alone in enumerate([*apart[0], *apart[1]]):
            assert dataset[i].meta == alone.meta
            assert dataset[i].image.equal(alone.image)
            assert dataset[i].targets["mask"].equal(alone.targets["mask"])
        assert [dataset.neighbours(i) for i in (0, 2)] == [range(2), range(2, 3)]
        orders = {tuple(dataset.epoch_order(0, epoch).tolist()) for epoch in range(20)}
        assert orders == {(0, 1, 2), (1, 0, 2), (2, 0, 1), (2, 1, 0)}
        again = pickle.loads(pickle.dumps(dataset))
        assert again[2].image.equal(dataset[2].image)
    assert not list(two_archives.rglob("*.tar.index.npy"))  # nothing was scanned


def test_archives_of_other_classes_are_not_joined(two_archives: Path) -> None:
    manifest = two_archives / "p2/manifest.json"
    about = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(about | {"classes": ["dark", "roof", "red"]}))
    where = "all/p1 and .*all/p2 have other classes"
    with pytest.raises(DataError, match=f"{where}: number 1 is bright in one and roof in"):
        ShardDataset(two_archives)
    with pytest.raises(DataError, match=where):
        ShardDataset(two_archives, labels=True, protocol=Protocol(("a", "b", "c")))
    manifest.write_text(json.dumps(about | {"classes": ["dark", "bright"], "palette": None}))
    with pytest.raises(DataError, match="number 2 is red in one and none in the other"):
        ShardDataset(two_archives)
    with pytest.raises(DataError, match="root names no archive"):
        ShardDataset([])


def test_beside_an_archive_others_shards_need_a_protocol(two_archives: Path) -> None:
    foreign(two_archives / "theirs", 1, 2)
    dataset = ShardDataset(two_archives)
    assert list(dataset.ids)[3:] == ["n0", "n1"]
    assert dataset[3].valid is None
    with pytest.raises(DataError, match="all: say what the masks mean"):
        ShardDataset(two_archives, labels=True)


def test_labels_without_a_meaning_or_without_a_mask_are_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [tar_members([("k.png", png(image_of(0)))])[0]])
    with pytest.raises(DataError, match="say what the masks mean"):
        ShardDataset(tmp_path / "a.tar", labels=True)
    dataset = ShardDataset(tmp_path / "a.tar", labels=True, protocol=Protocol(CLASSES))
    with pytest.raises(DataError, match=r"a\.tar/k: no mask is stored"):
        dataset[0]
    with pytest.raises(DataError, match="nor a folder that holds any"):
        ShardDataset(tmp_path / "absent")


def test_a_contact_sheet_of_shards(prepared: Path, tmp_path: Path) -> None:
    sheet = contact_sheet(ShardDataset(prepared, labels=True), tmp_path / "sheet.png", count=4)
    with Image.open(sheet) as picture:
        assert picture.size[0] > 300


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """The layout of the released RS4P-1M."""
    folder = tmp_path / "unlabeled/RS4P-1M/images"
    folder.mkdir(parents=True)
    for i in range(10):
        Image.fromarray(image_of(i)).save(folder / f"{i}.png")
    Image.fromarray(image_of(3)[..., 0]).save(folder / "3.png")  # a grey one
    lines = [f"unlabeled/RS4P-1M/images/{i}.png unlabeled/RS4P-1M/masks/{i}.png" for i in range(10)]
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_of_the_released_list_the_first_column_is_read(released: Path) -> None:
    dataset = UnlabelledFolder(released, released / "list.txt")
    assert len(dataset) == 10
    assert dataset.ids[9] == "unlabeled/RS4P-1M/images/9.png"
    np.testing.assert_array_equal(dataset[9].image, image_of(9).transpose(2, 0, 1))
    assert dataset[3].image.shape == (3, 16, 24)
    assert [sample.meta["id"] for sample in dataset] == list(dataset.ids)
    assert not dataset[9].targets
    assert pickle.loads(pickle.dumps(dataset))[9].image.equal(dataset[9].image)
    assert len(UnlabelledFolder(released / "unlabeled")) == 10


def test_the_released_masks_are_read_on_request(released: Path) -> None:
    masks = released / "unlabeled/RS4P-1M/masks"
    masks.mkdir()
    for i in range(10):
        Image.fromarray(image_of(i)[..., 1] % 16).save(masks / f"{i}.png")
    dataset = UnlabelledFolder(released, released / "list.txt", labels=True)
    np.testing.assert_array_equal(dataset[9].targets["mask"], image_of(9)[..., 1] % 16)
    assert pickle.loads(pickle.dumps(dataset))[9].targets["mask"].equal(dataset[9].targets["mask"])
    other = Protocol(("a", "b"), mapping=[(i, i % 2) for i in range(16)])
    dataset = UnlabelledFolder(released, released / "list.txt", labels=True, protocol=other)
    np.testing.assert_array_equal(dataset[9].targets["mask"], image_of(9)[..., 1] % 2)
    Image.fromarray(image_of(3)[:5, :, 1] % 16).save(masks / "3.png")
    with pytest.raises(DataError, match=r"3\.png: the mask has 24 x 5 pixels, the image 24 x 16"):
        dataset[3]
    (masks / "7.png").unlink()
    with pytest.raises(DataError, match=r"1 of 10.*masks/7\.png: no such file"):
        UnlabelledFolder(released, released / "list.txt", labels=True)
    with pytest.raises(DataError, match="needs a list with the mask in a second column"):
        UnlabelledFolder(released / "unlabeled", labels=True)


def test_the_catalogue_knows_the_released_layout(released: Path) -> None:
    from swath.core.data.catalogue import load_dataset

    assert len(load_dataset("rs4p1m", released)) == 10
    assert len(load_dataset("rs4p1m", released / "unlabeled/RS4P-1M")) == 10
    assert not load_dataset("rs4p1m", released)[0].targets


def test_missing_files_are_counted_and_the_first_named(released: Path) -> None:
    for i in (2, 5):
        (released / f"unlabeled/RS4P-1M/images/{i}.png").unlink()
    with pytest.raises(DataError, match=r"2 of 10 images can't be read .*images/2\.png: no such"):
        UnlabelledFolder(released, released / "list.txt")
    with pytest.warns(UserWarning, match="2 of 10.*others take their places"):
        dataset = UnlabelledFolder(released, released / "list.txt", max_broken=0.2)
    assert [Path(name).stem for name in dataset.missing] == ["2", "5"]
    assert "2 of 10 images can't be read" in dataset.remarks()[0]
    (released / "unlabeled/RS4P-1M/images/8.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"3 of 10.*2\.png: no such.*5\.png: no such.*8\.png"):
        dataset[8]
    with pytest.raises(DataError, match="isn't a folder"):
        UnlabelledFolder(released / "absent", released / "list.txt")


def test_missing_files_move_no_index(released: Path) -> None:
    (released / "unlabeled/RS4P-1M/images/2.png").unlink()
    with pytest.warns(UserWarning, match="1 of 10"):
        dataset = UnlabelledFolder(released, released / "list.txt", max_broken=0.1)
    seen = [Path(sample.meta["id"]).stem for sample in dataset]
    assert seen == ["0", "1", "3", "3", "4", "5", "6", "7", "8", "9"]


def test_of_a_folder_every_image_is_taken(released: Path) -> None:
    folder = released / "unlabeled/RS4P-1M/images"
    Image.fromarray(image_of(20)).save(folder / "1.jpg")
    dataset = UnlabelledFolder(folder)
    assert list(dataset.ids)[:4] == ["0.png", "1.jpg", "1.png", "2.png"]
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        UnlabelledFolder(folder / "empty")


def test_names_in_a_list_may_have_spaces(released: Path) -> None:
    folder = released / "unlabeled/RS4P-1M/images"
    Image.fromarray(image_of(20)).save(folder / "my new scene.png")
    (folder / "list.txt").write_text("# scenes\n\nmy new scene.png\n1.png masks/1.png\n")
    dataset = UnlabelledFolder(folder, folder / "list.txt")
    assert list(dataset.ids) == ["my new scene.png", "1.png"]
    np.testing.assert_array_equal(dataset[0].image, image_of(20).transpose(2, 0, 1))
    (folder / "list.txt").write_text("# nothing\n")
    with pytest.raises(DataError, match=r"list\.txt: the list file names no sample"):
        UnlabelledFolder(folder, folder / "list.txt")


def test_grey_images_are_as_a_model_of_one_band_takes_them(released: Path, tmp_path: Path) -> None:
    grey = image_of(3)[..., 0]
    write_shard(tmp_path / "a.tar", [tar_members([("k.png", png(grey))])[0]])
    for channels in (1, 3):
        folder = UnlabelledFolder(released, released / "list.txt", channels=channels)
        for sample in (folder[3], ShardDataset(tmp_path / "a.tar", channels=channels)[0]):
            np.testing.assert_array_equal(sample.image, [grey] * channels)


def test_a_broken_one_is_refused_every_time_it_is_asked_for(released: Path) -> None:
    (released / "unlabeled/RS4P-1M/images/4.png").write_bytes(b"rubbish")
    dataset = UnlabelledFolder(released, released / "list.txt")
    for _ in range(2):
        with pytest.raises(DataError, match="1 of 10"):
            dataset[4]


def test_the_next_image_takes_the_place_of_a_broken_one(released: Path) -> None:
    folder = released / "unlabeled/RS4P-1M/images"
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:100])
    strict = UnlabelledFolder(released, released / "list.txt")
    with pytest.raises(DataError, match=r"1 of 10 images can't be read.*4\.png.*max_broken=0 "):
        strict[4]
    lenient = UnlabelledFolder(released, released / "list.txt", max_broken=0.1)
    with pytest.warns(UserWarning, match=r"4\.png: damaged.*takes its place"):
        sample = lenient[4]
    assert sample.meta["id"].endswith("/5.png")
    (folder / "9.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="2 of 10 images"):
        lenient[9]


def test_what_the_workers_of_a_loader_cannot_read_is_counted_and_named_together(
    released: Path,
) -> None:
    for i in (2, 7):  # of a batch of the one worker's, and of one of the other's
        (released / f"unlabeled/RS4P-1M/images/{i}.png").write_bytes(b"rubbish")

    def read(max_broken: float) -> UnlabelledFolder:
        dataset = UnlabelledFolder(released, released / "list.txt", max_broken=max_broken)
        task = SegmentationTask(CLASSES)
        assert len(list(make_loader(dataset, task, batch_size=1, num_workers=2))) == 10
        return dataset

    with pytest.raises(DataError, match="2 of 10 images can't be read"):
        read(0.1)
    lenient = read(0.2)
    (remark,) = lenient.remarks()
    assert re.search(r"2 of 10 images can't be read \(.*/2\.png: .*; .*/7\.png: ", remark)
    assert SemiSupervised([], lenient).remarks() == [remark]


def test_a_confidence_in_percent_is_refused(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="min_confidence=90 must be a probability"):
        ShardDataset(prepared, labels=True, min_confidence=90)


def test_an_epoch_of_no_shard_at_a_time_is_refused(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="window=0 must be a number of shards"):
        ShardDataset(prepared, window=0)


def test_images_are_tensors_of_bytes(prepared: Path) -> None:
    image = ShardDataset(prepared)[0].image
    assert isinstance(image, Tensor)
    assert str(image.dtype) == "torch.uint8"


def test_a_model_of_one_band_learns_from_grey_images(released: Path) -> None:
    folder = released / "unlabeled/RS4P-1M/images"
    masks = released / "masks"
    masks.mkdir()
    for i in range(10):
        Image.fromarray(image_of(i)[..., 0]).save(folder / f"{i}.png")
        Image.fromarray(image_of(i)[..., 0] // 128).save(masks / f"{i}.png")
    labelled = FolderSegmentation(folder, masks, classes=CLASSES)
    pairs = SemiSupervised(labelled, UnlabelledFolder(folder, channels=1), cutmix=1.0)
    task = S4PTask(CLASSES, threshold=0.0, radiometry=Radiometry.fit(labelled))
    batch = task.collate([pairs[i].map(S4PViews(16)) for i in range(2)])
    losses = task.losses(nn.Conv2d(1, 2, 1), batch)
    assert {name: bool(loss.isfinite()) for name, loss in losses.items()} == {
        "ce": True,
        "unlabelled": True,
        "confident": True,
    }
