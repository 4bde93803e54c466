import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from swath.core.errors import ConfigError, DataError, SwathError
from swath.core.inference.predictor import Predictor
from swath.core.segmentation import SegmentationTask
from swath.pretrain.rs4p.dataset import ShardDataset
from swath.pretrain.rs4p.packing import balanced
from swath.pretrain.rs4p.pipeline import model_hash, prepare
from swath.pretrain.rs4p.recipe import Recipe
from swath.pretrain.rs4p.shards import read_at
from swath.pretrain.rs4p.workers import in_order, worker_pool

Contents = Callable[[Path], dict[str, bytes]]

RECIPE = Recipe(tile=64, min_size=32, min_confident=0.0, image_format="png", batch_size=3)
SMALL = {"workers": 0, "part": 4}
"""Parts of four tiles: the archive's eleven make three."""


def picture(path: Path, colour: tuple[int, int, int], seed: int = 0) -> None:
    """A scene of a colour with a different pattern for each seed."""
    rng = np.random.default_rng(seed)
    pattern = cv2.resize(rng.integers(-5, 6, (6, 6, 3)).astype(np.float32), (64, 64))
    array = np.clip(np.array(colour) + pattern, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def sources_of(dataset: ShardDataset) -> list[str]:
    return sorted(dataset.about(i)["source"] for i in range(len(dataset)))


def test_labels_are_what_the_model_says(archive: Path, tmp_path: Path, model: Predictor) -> None:
    done = prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    dataset = ShardDataset(tmp_path / "out", labels=True)
    assert done.samples == len(dataset) == 11
    assert done.manifest["tiles"]["kept"] == 11
    worst = 0.0
    for i in range(len(dataset)):
        sample = dataset[i]
        scores = model.model(model.task.collate([sample])["image"])[0].softmax(0)
        confidence, mask = scores.max(0)
        np.testing.assert_array_equal(sample.targets["mask"], mask)
        stored = sample.targets["confidence"].numpy() / 255
        worst = max(worst, float(np.abs(stored - confidence.detach().numpy()).max()))
    print(f"largest error of a stored confidence: {worst:.5f}")
    assert worst <= 0.5 / 255 + 1e-6
    assert dataset.classes == ("dark", "bright", "red")


def test_the_manifest_counts_what_is_there(archive: Path, tmp_path: Path, model: Predictor) -> None:
    done = prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    dataset = ShardDataset(tmp_path / "out", labels=True)
    counts = sum(np.bincount(s.targets["mask"].numpy().ravel(), minlength=3) for s in dataset)
    stored = json.loads((tmp_path / "out/manifest.json").read_text())
    assert stored["pixels"] == counts.tolist()
    assert stored["request"]["model"]["sha256"] == model_hash(model.model)
    assert stored == json.loads(json.dumps(done.manifest))
    assert stored["samples"] == 11


def test_workers_change_nothing(
    archive: Path, tmp_path: Path, model: Predictor, contents: Contents
) -> None:
    (archive / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    options: dict[str, Any] = {"part": 4, "max_broken": 0.5}
    prepare([archive], tmp_path / "alone", model, RECIPE, workers=0, **options)
    prepare([archive], tmp_path / "many", model, RECIPE, workers=2, **options)
    alone = contents(tmp_path / "alone")
    assert alone == contents(tmp_path / "many")
    assert {"rs4p-000000.tar", "index.npy", "manifest.json", "report.html"} <= set(alone)


def killed_before(call: int, archive: Path, out: Path, model: Predictor) -> None:
    """Run, and die without a word before the given file gets its final name."""
    rename, calls = os.replace, iter(range(1_000))

    def rename_or_die(source: Any, target: Any) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = rename_or_die  # type: ignore[assignment]
    prepare([archive], out, model, RECIPE, **SMALL)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    archive: Path, tmp_path: Path, model: Predictor, contents: Contents
) -> None:
    prepare([archive], tmp_path / "whole", model, RECIPE, **SMALL)
    wanted = contents(tmp_path / "whole")
    deaths = 0
    while True:
        out = tmp_path / f"killed-{deaths}"
        child = multiprocessing.get_context("fork").Process(
            target=killed_before, args=(deaths, archive, out, model)
        )
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
        prepare([archive], out, model, RECIPE, **SMALL)
        assert contents(out) == wanted, f"killed before file {deaths}"
        deaths += 1
    print(f"killed {deaths} times")
    assert (
        deaths == 13
    )  # request, scenes, 3 parts of 2 files, shard, index, skipped, report, manifest


def test_finished_parts_are_not_labelled_again(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    seen = [0]
    model.model.register_forward_hook(lambda *_: seen.__setitem__(0, seen[0] + 1))
    prepare([archive], tmp_path / "whole", model, RECIPE, **SMALL)
    whole, seen[0] = seen[0], 0

    def stop(*_: Any) -> None:
        if seen[0] == 4:  # in the second part
            raise KeyboardInterrupt

    handle = model.model.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    handle.remove()
    before, seen[0] = seen[0], 0
    done = prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    assert done.resumed == 4
    assert seen[0] < whole < before + seen[0] + 2
    seen[0] = 0
    again = prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    assert (again.samples, seen[0]) == (done.samples, 0)


def test_a_folder_of_another_recipe_or_with_other_files_is_left_alone(
    archive: Path, tmp_path: Path, model: Predictor, contents: Contents
) -> None:
    prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    before = contents(tmp_path / "out")
    with pytest.raises(DataError, match=r"out was prepared with other min_valid, tile; choose"):
        prepare(
            [archive], tmp_path / "out", model, replace(RECIPE, tile=32, min_valid=0.7), **SMALL
        )
    (archive / "new.png").write_bytes((archive / "a.png").read_bytes())
    with pytest.raises(DataError, match="prepared with other scenes"):
        prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    assert contents(tmp_path / "out") == before
    with pytest.raises(DataError, match="isn't empty"):
        prepare([tmp_path / "out"], archive, model, RECIPE, **SMALL)


def test_the_precision_is_the_models_and_part_of_the_request(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    found: list[bool] = []
    model.model.register_forward_hook(lambda *_: found.append(torch.is_autocast_enabled("cpu")))
    half = Predictor(model.model, model.task, model.card, "bf16")
    done = prepare([archive], tmp_path / "out", half, RECIPE, **SMALL)
    assert set(found) == {True}
    assert done.manifest["request"]["precision"] == "bf16"
    with pytest.raises(DataError, match="prepared with other precision"):
        prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)


@pytest.mark.parametrize("manifest", ["{", "[]", '{"version": 2}'])
def test_a_folder_with_a_manifest_of_others_is_refused(
    archive: Path, tmp_path: Path, model: Predictor, manifest: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=r"manifest\.json isn't of a preparation, or damaged"):
        prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)


def test_near_duplicates_are_left_out_and_named(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    with Image.open(archive / "a.png") as first:
        first.save(archive / "z.jpg", quality=80)
    done = prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    assert done.manifest["tiles"]["duplicate"] == 1
    assert "z.jpg@0,0\tduplicate\ta.png@0,0" in (tmp_path / "out/skipped.tsv").read_text()
    recipe = replace(RECIPE, duplicate_bits=-1)
    kept = prepare([archive], tmp_path / "all", model, recipe, **SMALL)
    assert kept.samples == done.samples + 1


def test_a_tile_is_kept_if_enough_of_it_is_sure(tmp_path: Path, model: Predictor) -> None:
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, :16] = 250  # a quarter is bright: sure; the rest mid-grey: not
    half[:, 16:] = 118
    half[::2, 16:] = 119
    (tmp_path / "in").mkdir()
    Image.fromarray(half).save(tmp_path / "in/quarter.png")
    picture(tmp_path / "in/sure.png", (245, 240, 245))
    for share, kept in ((0.25, 2), (0.26, 1)):
        recipe = Recipe(tile=64, min_confident=share, confidence=0.99)
        done = prepare([tmp_path / "in"], tmp_path / f"{share}", model, recipe, **SMALL)
        assert (done.samples, done.manifest["tiles"]["doubtful"]) == (kept, 2 - kept)
        by_percent = done.manifest["tiles_by_percent_sure"]
        assert (by_percent[25], by_percent[100], sum(by_percent)) == (1, 1, 2)
        by_level = done.manifest["pixels_by_confidence"]
        assert (sum(by_level), sum(by_level[253:])) == (2 * 64 * 64, 64 * (64 + 16))


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path, model: Predictor) -> None:
    picture(tmp_path / "in/grey.png", (118, 118, 118))
    Image.new("RGB", (64, 64)).save(tmp_path / "in/black.png")
    recipe = Recipe(tile=64, confidence=1.0, min_confident=1.0)
    with pytest.raises(DataError, match=r"none of 2 tiles is left \(1 empty, 1 doubtful\)"):
        prepare([tmp_path / "in"], tmp_path / "out", model, recipe, **SMALL)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    recipe = Recipe(tile=64, min_confident=0.0)
    assert prepare([tmp_path / "in"], tmp_path / "out", model, recipe, **SMALL).samples == 1


def test_another_balance_or_size_of_shards_labels_nothing_again(
    archive: Path, tmp_path: Path, model: Predictor, contents: Contents
) -> None:
    recipe = replace(RECIPE, shard_mb=0.03)
    prepare([archive], tmp_path / "whole", model, recipe, **SMALL)
    out, scarce = tmp_path / "out", replace(RECIPE, balance=1e-9)
    with pytest.raises(DataError, match=r"--balance 1e-09 leaves none of 11 tiles; raise it"):
        prepare([archive], out, model, scarce, **SMALL)
    (out / "rs4p-000000.tar").write_bytes(b"packed with another --shard-mb, then killed")
    with pytest.raises(DataError, match=r"prepared with other tile; choose"):
        prepare([archive], out, model, replace(scarce, tile=32), **SMALL)
    done = prepare([archive], out, model, recipe, **SMALL)
    assert done.resumed == 11
    assert contents(out) == contents(tmp_path / "whole")
    with pytest.raises(DataError, match=r"prepared with other shard_mb; choose"):
        prepare([archive], out, model, RECIPE, **SMALL)


def test_one_at_a_time_prepares_in_a_folder(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    def another(*_: Any) -> None:
        handle.remove()
        running = f"out: process {os.getpid()} on .* is preparing here; .* choose another --out"
        with pytest.raises(ConfigError, match=running):
            prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)

    handle = model.model.register_forward_pre_hook(another)
    assert prepare([archive], tmp_path / "out", model, RECIPE, **SMALL).samples == 11


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit", [200, 1_000, 20_000])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    archive: Path, tmp_path: Path, model: Predictor, limit: int
) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(SwathError, match=r"out: the preparation stopped .* the same command"):
            prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert prepare([archive], tmp_path / "out", model, RECIPE, **SMALL).samples == 11


def test_scenes_that_are_all_too_small_are_an_error_that_says_so(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    recipe = replace(RECIPE, min_size=5_000)
    with pytest.raises(DataError, match=r"none of \d+ scenes has 5000 pixels .* lower --min-size"):
        prepare([archive], tmp_path / "out", model, recipe, **SMALL)
    assert prepare([archive], tmp_path / "out", model, RECIPE, **SMALL).samples == 11


def test_one_source_needs_no_list_and_none_is_refused(
    archive: Path, tmp_path: Path, model: Predictor, contents: Contents
) -> None:
    prepare(str(archive), tmp_path / "one", model, RECIPE, **SMALL)
    prepare([archive], tmp_path / "list", model, RECIPE, **SMALL)
    assert contents(tmp_path / "one") == contents(tmp_path / "list")
    with pytest.raises(DataError, match="there is no source"):
        prepare([], tmp_path / "none", model, RECIPE, **SMALL)


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_one_line() -> None:
    with pytest.raises(SwathError, match="one of 2 workers was killed"), worker_pool(2) as pool:
        list(in_order(pool, die, range(3), 2))


def test_nodata_is_ignored_in_masks_and_invalid_in_samples(
    tmp_path: Path, model: Predictor
) -> None:
    array = np.dstack([np.full((64, 64), 200), np.arange(64)[:, None] + np.zeros((64, 64))] * 2)
    array[:, :, 3] = 255
    array[:, :20, 3] = 0
    (tmp_path / "in").mkdir()
    Image.fromarray(array.astype(np.uint8), "RGBA").save(tmp_path / "in/a.png")
    prepare([tmp_path / "in"], tmp_path / "out", model, RECIPE, **SMALL)
    sample = ShardDataset(tmp_path / "out", labels=True)[0]
    assert (sample.targets["mask"][:, :20] == 255).all()
    assert (sample.targets["mask"][:, 20:] < 3).all()
    assert not sample.targets["confidence"][:, :20].any()
    plain = ShardDataset(tmp_path / "out")[0]
    assert plain.valid is not None
    assert not plain.targets
    np.testing.assert_array_equal(plain.valid, array[:, :, 3] > 0)


def test_broken_scenes_are_named_and_too_many_stop_it(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    (archive / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    (archive / "list.txt").write_text("a.png\nabsent.png\n")
    sources = [archive, archive / "list.txt"]
    with pytest.raises(DataError, match=r"2 of 7 scenes can't be read.*absent\.png.*broken\.png"):
        prepare(sources, tmp_path / "out", model, RECIPE, **SMALL)
    done = prepare(sources, tmp_path / "out", model, RECIPE, max_broken=0.3, **SMALL)
    assert [entry["scene"] for entry in done.manifest["broken"]] == [
        "absent.png",
        "broken.png",
    ]
    assert done.samples == 11


def test_scenes_that_break_while_being_read_count_too(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    content = (archive / "large.png").read_bytes()
    (archive / "large.png").write_bytes(content[: len(content) // 2])  # its header is whole
    with pytest.raises(DataError, match=r"1 of 5 scenes can't be read.*large\.png"):
        prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    done = prepare([archive], tmp_path / "out", model, RECIPE, max_broken=0.2, **SMALL)
    assert done.manifest["tiles"]["broken"] == 6
    assert [entry["scene"] for entry in done.manifest["broken"]] == ["large.png"]
    assert "large.png" not in "".join(sources_of(ShardDataset(tmp_path / "out")))


def test_shards_have_about_the_size_asked_for_and_are_shuffled(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    recipe = replace(RECIPE, shard_mb=0.03)
    done = prepare([archive], tmp_path / "out", model, recipe, **SMALL)
    sizes = [(tmp_path / "out" / name).stat().st_size for name in done.manifest["shards"]]
    assert len(sizes) > 3
    assert max(sizes) < 31_100
    dataset = ShardDataset(tmp_path / "out")
    keys = list(dataset.ids)
    assert keys == sorted(keys)
    inside = [dataset.about(i)["source"] for i in range(len(dataset))]
    assert inside != sorted(inside)


def test_a_shard_is_a_source_too(archive: Path, tmp_path: Path, model: Predictor) -> None:
    prepare([archive], tmp_path / "first", model, RECIPE, **SMALL)
    prepare([tmp_path / "first"], tmp_path / "second", model, RECIPE, **SMALL)
    first, second = (ShardDataset(tmp_path / n, labels=True) for n in ("first", "second"))
    of_first = {first[i].meta["id"]: first[i] for i in range(len(first))}
    for i in range(len(second)):
        origin = second.about(i)["source"].rpartition("/")[2].partition(".")[0]
        assert second[i].image.equal(of_first[origin].image)
        assert second[i].targets["mask"].equal(of_first[origin].targets["mask"])


def test_the_common_is_thinned_out_and_the_rare_is_kept() -> None:
    rng = np.random.default_rng(0)
    keys = np.array([f"{v:016x}" for v in rng.integers(0, 2**63, 20_000)], "S16")
    counts = np.zeros((20_000, 3), np.int64)
    counts[:, 0] = 1000  # everywhere
    counts[:2000, 1] = 500  # in a tenth of the tiles
    counts[2000:, 2] = 5  # too little to count
    kept = balanced(keys, counts, 0.1)
    assert kept[:2000].all()
    assert kept[2000:].mean() == pytest.approx(np.sqrt(0.1), abs=0.015)
    assert balanced(keys, counts, 1.0).all()


def test_a_class_that_covers_little_is_in_a_tile_that_shows_no_other_better() -> None:
    keys = np.array([f"{v:016x}" for v in range(500)], "S16")
    counts = np.full((500, 300), 10)  # none covers a hundredth
    counts[:, 7] = 11
    assert balanced(keys, counts, 1.0).all()
    assert balanced(keys, counts, 0.25).mean() == pytest.approx(0.5, abs=0.07)


@given(st.permutations(range(40)))
def test_what_is_kept_does_not_depend_on_the_order(order: list[int]) -> None:
    keys = np.array([f"{i:016x}" for i in range(40)], "S16")
    counts = np.random.default_rng(0).integers(0, 3, (40, 5)) ** 6
    kept = balanced(keys, counts, 0.3)
    np.testing.assert_array_equal(balanced(keys[order], counts[order], 0.3), kept[order])


def test_balance_leaves_out_and_says_so(tmp_path: Path, model: Predictor) -> None:
    for i in range(12):
        picture(tmp_path / f"in/dark{i:02}.png", (20, 25, 20), seed=i)
    picture(tmp_path / "in/red.png", (250, 20, 20), seed=50)
    recipe = Recipe(tile=64, duplicate_bits=0, balance=0.08)
    done = prepare([tmp_path / "in"], tmp_path / "out", model, recipe, **SMALL)
    tiles = done.manifest["tiles"]
    assert tiles["kept"] + tiles["surplus"] == 13
    assert 1 <= tiles["kept"] < 10
    assert any("red" in name for name in sources_of(ShardDataset(tmp_path / "out")))
    assert sum(done.manifest["pixels_before_balance"]) == 13 * 64 * 64
    assert sum(done.manifest["pixels"]) == tiles["kept"] * 64 * 64
    assert (tmp_path / "out/skipped.tsv").read_text().count("surplus") == tiles["surplus"]


class Independent(SegmentationTask):
    """Its classes don't exclude one another, and may all be unlikely."""

    def labelled(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        score, label = logits.max(0)
        return label, score.sigmoid()


def test_how_sure_a_label_is_the_task_says(archive: Path, tmp_path: Path, model: Predictor) -> None:
    free = Predictor(model.model, Independent(("a", "b", "c")), {})
    prepare([archive], tmp_path / "out", free, RECIPE, **SMALL)
    prepare([archive], tmp_path / "soft", model, RECIPE, **SMALL)
    data, soft = (ShardDataset(tmp_path / name, labels=True) for name in ("out", "soft"))
    for i in range(len(data)):
        logits = model.task.predict(model.model, model.task.collate([data[i]]))[0]
        for sample, expected in (
            (data[i], logits.amax(0).sigmoid()),
            (soft[i], logits.softmax(0).amax(0)),
        ):
            found = sample.targets["confidence"] / 255
            torch.testing.assert_close(found, expected, atol=1 / 255, rtol=0)


class OpenVocabularyTask(SegmentationTask):
    """Takes any list of three names."""

    def with_classes(self, classes: tuple[str, ...]) -> "OpenVocabularyTask":
        return OpenVocabularyTask(classes)


def test_a_vocabulary_reaches_models_that_take_one(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    names = ("water", "sand", "roof")
    with pytest.raises(ConfigError, match="takes no vocabulary"):
        prepare([archive], tmp_path / "out", model, RECIPE, classes=names, **SMALL)
    free = Predictor(model.model, OpenVocabularyTask(("a", "b", "c")), {})
    prepare([archive], tmp_path / "out", free, RECIPE, classes=names, **SMALL)
    assert ShardDataset(tmp_path / "out").classes == names


def test_models_that_cannot_label_rgb_are_refused(tmp_path: Path, archive: Path) -> None:
    task = SegmentationTask([str(i) for i in range(300)])
    with pytest.raises(ConfigError, match="300 classes; masks hold 255"):
        prepare([archive], tmp_path / "out", Predictor(nn.Identity(), task), RECIPE)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"tile": 8}, "--tile 8 must be 32 or more"),
        ({"bands": (1, 2)}, "three band numbers"),
        ({"bands": (0, 1, 2)}, "three band numbers, from 1"),
        ({"image_format": "gif"}, "--image-format gif must be jpg or png"),
        ({"duplicate_bits": 60}, "--duplicate-bits 60 must be"),
        ({"confidence": 1.5}, "--confidence 1.5 must be between 0 and 1"),
        ({"balance": 0.0}, "--balance 0.0 must be above 0"),
        ({"shard_mb": 0.0}, "--shard-mb"),
        ({"batch_size": 0}, "--batch-size"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe(**option)


def test_a_shard_that_is_cut_off_is_named(archive: Path, tmp_path: Path, model: Predictor) -> None:
    prepare([archive], tmp_path / "out", model, RECIPE, **SMALL)
    shard = tmp_path / "out/rs4p-000000.tar"
    size = shard.stat().st_size
    assert len(read_at(shard, 0, size)) == size
    shard.write_bytes(shard.read_bytes()[: size // 2])
    with pytest.raises(DataError, match=r"rs4p-000000\.tar: truncated"):
        ShardDataset(tmp_path / "out")
    with pytest.raises(DataError, match=r"rs4p-000000\.tar: truncated.*offset \d+"):
        prepare([tmp_path / "out"], tmp_path / "other", model, RECIPE, **SMALL)
