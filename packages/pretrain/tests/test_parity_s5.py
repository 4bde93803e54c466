"""Agreement with tensors recorded from the official S4P pre-training.

Every fixture of a kind that this package claims (``parity_claims.json``) is checked, wherever it
comes from: the shared folder, or the small copies in ``data/parity``. The JSON beside the tensors
gives the kind, the configuration and the tolerances; a tensor that no check reads is a failure.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from swath.core.segmentation import cross_entropy
from swath.pretrain.losses import confident, cutmix, pseudo_labels, unlabelled_loss

pytestmark = pytest.mark.parity

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SWATH_PARITY_DIR", HERE.parents[3] / "shared" / "parity"))
CLAIMED: list[str] = json.loads((HERE / "parity_claims.json").read_text())["s5"]["kinds"]


class Fixture:
    """One recorded case: its manifest, and tensors that remember whether they were read."""

    def __init__(self, path: Path) -> None:
        self.manifest: dict[str, Any] = json.loads(path.read_text())
        self.config: Any = self.manifest["config"]
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.unread = set(self.tensors)
        self.maxima: dict[str, float] = {}

    def __getitem__(self, name: str) -> Tensor:
        self.unread.discard(name)
        return self.tensors[name]

    def check(self, name: str, got: Tensor) -> None:
        """Compare with the recorded tensor: exactly if it holds integers."""
        want = self[name]
        assert got.shape == want.shape, name
        self.maxima[name] = float((got.detach().double() - want.double()).abs().max())
        tolerance = self.manifest["tolerance"] if want.is_floating_point() else {}
        torch.testing.assert_close(
            got.detach().to(want.dtype),
            want,
            rtol=tolerance.get("rtol", 0),
            atol=tolerance.get("atol", 0),
            msg=lambda text: f"{name}: {text}",
        )


def found() -> dict[str, Path]:
    folders = (HERE / "data/parity", SHARED / "s5")  # the shared one wins
    paths = [path for folder in folders for path in sorted(folder.glob("*.json"))]
    return {path.stem: path for path in paths if json.loads(path.read_text())["kind"] in CLAIMED}


def check_s4p_unlabeled_loss(case: Fixture) -> None:
    ignored, threshold = case.config["ignore_index"], case.config["conf_thresh"]
    box = case["in/cutmix_box"] == 1
    case.check("mid/img_u_s_cutmixed", cutmix(case["in/img_u_s"], case["in/img_u_s_mix"], box))
    own = pseudo_labels(case["in/logits_u_weak"])
    partners = pseudo_labels(case["in/logits_u_weak_mix"])
    label, confidence = (cutmix(x, mix, box) for x, mix in zip(own, partners, strict=True))
    case.check("mid/pseudo_label", label)
    case.check("mid/confidence", confidence)
    ignore = cutmix(case["in/ignore_mask"] == ignored, case["in/ignore_mask_mix"] == ignored, box)
    assert ignore.equal(case["mid/ignore"] == ignored)

    strong = case["in/logits_u_strong"].clone().requires_grad_()
    labelled = case["in/logits_labeled"].clone().requires_grad_()
    loss_u = unlabelled_loss(strong, label, confidence, ignore, threshold)
    loss_x = cross_entropy(labelled, case["in/mask_labeled"], ignored)
    total = (loss_x + loss_u) / 2
    total.backward()
    assert strong.grad is not None
    assert labelled.grad is not None
    case.check("out/loss_u", loss_u)
    case.check("out/loss_x", loss_x)
    case.check("out/total", total)
    case.check("grad/logits_u_strong", strong.grad)
    case.check("grad/logits_labeled", labelled.grad)
    learnt = confident(confidence, ignore, threshold)
    case.check("out/mask_ratio", learnt.sum() / (~ignore).sum())

    # two other weightings that the official helper knows and no recipe uses
    loss = F.cross_entropy(case["in/logits_u_strong"], label, reduction="none")
    case.check("mid/ce_map", loss)
    seen = ~ignore
    share = learnt.sum((1, 2)) / seen.sum((1, 2))
    case.check("out/loss_u_pixelratio", (loss * share[:, None, None]).sum() / seen.sum())
    mean = (confidence * seen).sum((1, 2)) / seen.sum((1, 2))
    case.check("out/loss_u_pixelavg", loss.sum() * mean.sum() / seen.sum())


CHECKS: dict[str, Callable[[Fixture], None]] = {"s4p_unlabeled_loss": check_s4p_unlabeled_loss}


@pytest.mark.parametrize("name", found())
def test_agrees_with_the_official_implementation(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    case = Fixture(found()[name])
    CHECKS[case.manifest["kind"]](case)
    assert not case.unread, f"nobody reads {sorted(case.unread)}"
    record_property("maxima", case.maxima)
    print(name, {key: f"{value:.1e}" for key, value in case.maxima.items()})


def test_every_claimed_kind_has_a_check_and_a_small_copy() -> None:
    assert sorted(CHECKS) == sorted(CLAIMED)
    kinds = {json.loads(p.read_text())["kind"] for p in (HERE / "data/parity").glob("*.json")}
    assert kinds == set(CLAIMED)
