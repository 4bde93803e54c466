"""Class names on one 896 px image: RemoteSAM here against one pass per class, as officially.

Run:  OMP_NUM_THREADS=1 python benchmarks/refseg_speed.py [--classes 10] [--dtype bf16]
          [--side 896] [--smoke]

Full size, random weights, one thread, processor time. "Official order" is a re-creation on the same
weights: every class is a pass of its own through image, text and decoder; the coarse map is
upsampled and concatenated before it is convolved, convolutions are direct, norms stand alone, words
are spread over the image before they are projected, and the last stage computes gates that nothing
reads. In fp32 its probabilities must be ours (1e-4), or nothing is written. With ``--dtype bf16``
ours runs in bf16; how far its masks agree with those of fp32 is recorded with the times, which mean
nothing where the processor has no bf16 arithmetic.
"""

import argparse
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from common import record
from torch import Tensor, nn
from torch.nn import functional as F

from swath.refseg.asks import margins
from swath.refseg.models.remotesam import (
    ImageLanguageAttention,
    MultiModalStage,
    RemoteSAM,
    RotatedDecoder,
    instance_norm,
    remotesam,
)

AIM = {"fp32": 1.2, "bf16": 2.0}
SIDE = 896
WATCHED = ("text_encoder", "backbone.layers.0", "backbone.layers.1", "backbone.layers.2",
           "backbone.layers.3", "backbone.cim", "classifier")  # fmt: skip


def spread_then_project(
    self: ImageLanguageAttention, query: Tensor, words: Tensor, mask: Tensor
) -> Tensor:
    """Attention with its output projection at every place."""
    present = mask[..., None].to(words.dtype)
    key, value = self.f_key(words) * present, self.f_value(words) * present
    scores = query.flatten(1, 2) @ key.transpose(1, 2) * self.scale - 1e4 * (
        1 - present[:, None, :, 0]
    )
    return instance_norm(self.W((scores.softmax(-1) @ value).unflatten(1, query.shape[1:3])))


def upsample_then_convolve(self: RotatedDecoder, level: int, x: Tensor, skip: Tensor) -> Tensor:
    """A step of the decoder, operation by operation."""
    x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=True)
    x = torch.cat([x, skip], dim=1)
    for i in (1, 2):
        x = self.get_submodule(f"conv{i}_{level}")(x)
        x = F.relu(self.get_submodule(f"bn{i}_{level}")(x))
    return x


def read_and_gate(self: MultiModalStage, looked: Any, words: Tensor, mask: Tensor) -> Any:
    """Fusion that computes the last stage's gates too."""
    fused, following = READ(self, looked, words, mask)
    if following is None:
        self.res_gate(fused)
        self.visual_gate(self.visual_residual(fused))
    return fused, following


READ = MultiModalStage.read


@contextmanager
def official_order() -> Iterator[None]:
    """Everything as the official code does it."""
    with ExitStack() as stack:
        for owner, name, replacement in (
            (ImageLanguageAttention, "forward", spread_then_project),
            (RotatedDecoder, "_folded_step", upsample_then_convolve),
            (MultiModalStage, "read", read_and_gate),
        ):
            stack.enter_context(patch.object(owner, name, replacement))
        yield


def one_by_one(model: RemoteSAM, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """A full pass for every class."""
    with official_order():
        logits = [model(image, i[None], m[None]) for i, m in zip(ids, mask, strict=True)]
    return torch.cat([each[:, 1] - each[:, 0] for each in logits])


def together(model: RemoteSAM, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """As Swath does it."""
    return margins(model, image, model.encode_text(ids, mask), mask, at_once=2)


def timed(call: Callable[[], Tensor], model: RemoteSAM) -> tuple[Tensor, float, Counter[str]]:
    """A result, its processor time, and that of each watched module."""
    spent: Counter[str] = Counter()

    def watch(owner: Any, attribute: str, name: str) -> Any:
        original = getattr(owner, attribute)

        def watching(*arguments: Any, **options: Any) -> Any:
            start = time.process_time()
            result = original(*arguments, **options)
            spent[name] += time.process_time() - start
            return result

        return patch.object(owner, attribute, watching)

    with ExitStack() as stack:
        for name in WATCHED:
            module: nn.Module = model.get_submodule(name)
            parts = ("look", "read") if "layers" in name else ("forward",)
            for part in parts:
                stack.enter_context(watch(module, part, name))
        start = time.process_time()
        result = call()
        seconds = time.process_time() - start
    return result, seconds, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--dtype", choices=list(AIM), default="fp32")
    parser.add_argument("--side", type=int, default=SIDE, help="of the image, px")
    parser.add_argument("--smoke", action="store_true", help="a small image, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = remotesam().eval()
    side = 96 if arguments.smoke else arguments.side
    image = torch.randn(1, 3, side, side)
    ids = torch.randint(1000, 30_000, (arguments.classes, 20))
    mask = (torch.arange(20) < torch.randint(6, 10, (arguments.classes, 1))).long()
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bf16"):
            ours, fast, after = timed(lambda: together(model, image, ids, mask), model)
        theirs, slow, before = timed(lambda: one_by_one(model, image, ids, mask), model)
    difference = float((ours.sigmoid() - theirs.sigmoid()).abs().max())
    agreement = float(
        ((ours > 0) & (theirs > 0)).sum() / ((ours > 0) | (theirs > 0)).sum().clamp(1)
    )
    assert arguments.dtype != "fp32" or difference <= 1e-4
    rows = [
        {
            "module": n,
            "official order s": before[n],
            "swath s": after[n],
            "faster": before[n] / after[n],
        }
        for n in WATCHED
    ]
    rows.append({"module": "all", "official order s": slow, "swath s": fast, "faster": slow / fast})
    if arguments.smoke:
        print(rows[-1], difference)
        return
    record(
        f"refseg_speed_{arguments.dtype}",
        rows,
        bf16_arithmetic=torch.cpu._is_avx512_bf16_supported(),
        classes=arguments.classes,
        side=side,
        threads=1,
        aim=AIM[arguments.dtype],
        largest_difference_of_probabilities=difference,
        iou_of_masks=agreement,
        peak_memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    )


if __name__ == "__main__":
    main()
