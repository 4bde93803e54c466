"""CLIP's own training: which captions are true of which image, and what follows."""

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from swath.core import load_model
from swath.core.config import load_config
from swath.core.engine import smoke, train
from swath.core.errors import ConfigError
from swath.core.inference.predictor import Predictor
from swath.ovseg.contrastive import CaptionTask, caption_contrast
from swath.ovseg.models.towers import pretrained
from swath.ovseg.scenes import SEEN, NamedCrops


def test_where_captions_differ_the_loss_is_clips() -> None:
    torch.manual_seed(0)
    image, text = (F.normalize(torch.randn(6, 8), dim=1) for _ in range(2))
    want = open_clip.ClipLoss()(image, text, torch.tensor(9.0))
    got = caption_contrast(9.0 * image @ text.T, torch.eye(6, dtype=torch.bool))
    torch.testing.assert_close(got, want)


def test_captions_that_are_true_share_the_target() -> None:
    torch.manual_seed(0)
    logits, true = torch.randn(4, 4), torch.eye(4, dtype=torch.bool)
    true[0, 2] = true[3, 0] = True
    rows = [-logits[i].log_softmax(0)[true[i]].mean() for i in range(4)]
    columns = [-logits[:, j].log_softmax(0)[true[:, j]].mean() for j in range(4)]
    want = (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2
    torch.testing.assert_close(caption_contrast(logits, true), want)


def test_a_batch_says_which_captions_hold_for_which_image() -> None:
    samples = [NamedCrops(48, 24, seed=1, classes=SEEN)[i] for i in range(24)]
    batch = CaptionTask(SEEN).collate(samples)
    captions = sorted({c for s in samples for c in s.targets["captions"]})
    assert batch["tokens"].shape[0] == len(captions)
    assert batch["label"].tolist() == [s.targets["label"] for s in samples]
    for row, sample in zip(batch["true"], samples, strict=True):
        held = [captions[j] for j in row.nonzero().flatten()]
        assert held == sorted(sample.targets["captions"])
    shared = int((batch["true"].sum(0) > 1).sum())
    print(f"captions that several images have: {shared} of {len(captions)}")
    assert shared > 0


def test_names_are_checked_and_may_be_others(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="'tree' is there twice"):
        CaptionTask(["tree", "tree"])
    clip = tiny.build("catseg").clip
    task = CaptionTask(["tree", "ship"]).with_classes(["tree", "ship", "road"])
    batch = task.collate([NamedCrops(48, 4)[i] for i in range(2)])
    for scores in task.predict(clip, batch):
        assert scores.shape == (3,)
        assert float(scores.sum()) == pytest.approx(1)
    with pytest.raises(ConfigError, match="knows no background here; leave it out"):
        Predictor(clip, task).adapted_task(classes=["tree"], background=0.5)


def test_names_are_encoded_once_for_all_tiles_and_until_weights_change(tiny: Any) -> None:
    clip, calls = tiny.build("catseg").clip.eval(), []
    clip.ln_final.register_forward_hook(lambda m, i, o: calls.append(len(o)))
    task = CaptionTask(["tree", "ship"], ["a {}", "one {}", "the {}"])
    predictor = Predictor(clip, task)
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    first = predictor.predict(image, tile=32, overlap=0, blend=0)
    assert calls == [6], "once for nine tiles"
    predictor.predict(image, classes=["road"])
    predictor.predict(image, classes=["road"])
    assert calls == [6, 3]
    with torch.no_grad():
        clip.text_projection.mul_(-1.0)
    assert not np.allclose(predictor.predict(image).probabilities, first.probabilities)
    assert calls == [6, 3, 6]


def test_the_small_clip_names_images_and_its_file_begins_a_segmenter(tmp_path: Path) -> None:
    config = smoke(load_config("clip_scenes_tiny"))
    run = train(config, tmp_path / "clip", device="cpu", progress=False)
    clip = load_model(run.last_checkpoint, device="cpu")
    image = config.train.build()[0].image.permute(1, 2, 0).numpy()
    answer = clip.predict(image, classes=["water", "red vehicle"])
    assert answer.classes == ("water", "red vehicle")
    assert sum(answer.probabilities) == pytest.approx(1)
    spec = load_config("rskt_seg_scenes_tiny").model
    towers = {"clip": run.last_checkpoint, "remote_clip": run.last_checkpoint}
    model = pretrained(spec["model"].build(), towers)
    for name, value in clip.model.state_dict().items():
        assert torch.equal(model.clip.state_dict()[name].half(), value.half()), name
    learning = {n.split(".")[-2] for n, p in model.clip.named_parameters() if p.requires_grad}
    assert learning == {"attn"}, learning
