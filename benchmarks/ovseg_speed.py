"""CAT-Seg, GSNet and RSKT-Seg in evaluation against the official order of work, on the CPU.

Run:  OMP_NUM_THREADS=1 python benchmarks/ovseg_speed.py [--only gsnet] [--part head] [--smoke]

384 px, 40 classes, one template, random weights, one thread, processor time, the best of
interleaved rounds. "Official order" is a re-creation on the same weights: guidance repeated for
each class and concatenated, classes padded to 256, explicit softmax attention, one CLIP pass for
each direction, every block of RemoteCLIP, texts of 77 tokens. Its results must be ours (1e-4 of
the largest logit), or nothing is written. ``head`` is aggregation and decoder, ``model`` everything
with its texts encoded before; RSKT-Seg has 3 layers, pooling is 1 in evaluation.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from common import record
from torch import Tensor, nn
from torch.nn import functional as F

from swath.ovseg import layers
from swath.ovseg.clip import CLIP, Attention, resized
from swath.ovseg.models import catseg, gsnet, rskt_seg

SIZE, CLASSES, GRID = 384, 40, (24, 24)
BUILDERS: dict[str, Callable[[], Any]] = {
    "catseg": catseg.catseg,
    "gsnet": gsnet.gsnet,
    "rskt_seg": rskt_seg.rskt_seg,
}
AIMS = {
    ("catseg", "head"): 2.0,
    ("gsnet", "head"): 1.5,
    ("rskt_seg", "head"): 1.5,
    ("gsnet", "model"): 1.5,
    ("rskt_seg", "model"): 1.5,
}
"""Speed-ups that were asked for."""


def concatenated_qkv(
    x: Tensor, guidance: Tensor, query: nn.Linear, key: nn.Linear, value: nn.Linear
) -> Tensor:
    """Guidance repeated to the size of the features, and concatenated."""
    both = torch.cat([x, guidance.expand(*x.shape[:-1], -1)], -1)
    return torch.cat([query(both), key(both), value(x)], -1)


def padded_mix(self: layers.ClassAggregation, x: Tensor, guidance: Tensor) -> Tensor:
    """Classes padded with learned tokens, each with queries and an MLP of its own."""
    batch, classes, height, width, dim = x.shape
    missing = max(0, self.pad_len - classes)
    pads = self.padding_tokens[:, :, None, None].expand(batch, missing, height, width, dim)
    guiding = self.padding_guidance.expand(len(guidance), missing, -1)
    x, guidance = torch.cat([x, pads], 1), torch.cat([guidance, guiding], 1)
    qkv = concatenated_qkv(self.norm1(x), guidance[:, :, None, None], *self._projections())
    q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(4, 0, 2, 3, 5, 1, 6)
    mixed = self._attend_linearly(q, k, v, self.pad_len)
    x = x + mixed.permute(0, 4, 1, 2, 3, 5).flatten(4)
    return (x + self.MLP(self.norm2(x)))[:, :classes]


def concatenated_upsample(self: Any, x: Tensor, guidance: Any) -> Tensor:
    """Guidance repeated for each class and concatenated."""
    x = self.up(x)
    repeated = [g.repeat_interleave(len(x) // len(g), 0) for g in guidance]
    return self.conv(torch.cat([x, *repeated], 1))


def concatenated_reduction(self: Any, x: Tensor, guidance: Tensor) -> Tensor:
    """RS-Fusion's attention on features and repeated guidance; explicit softmax."""
    both = torch.cat([x, guidance.expand_as(x)], -1).flatten(0, 1)  # (B * T, H, W, 2 C)
    q = self.q(both).flatten(1, 2)
    k = self.sr_k(both.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    v = self.sr_v(x.flatten(0, 1).permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
    k, v = self.k(self.norm_k(k)), self.v(self.norm_v(v))
    q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (q, k, v))
    mixed = explicit_attention(q, k, v)
    return self.proj(mixed.transpose(1, 2).reshape(x.shape))


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """Scores, softmax and their product with the values, each written to memory."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ v


def all_values(self: Attention, x: Tensor) -> Tensor:
    """The value-only path with queries and keys computed and thrown away."""
    weight = torch.cat([self.q_proj_weight, self.k_proj_weight, self.v_proj_weight])
    parts = F.linear(x, weight, self.in_proj_bias).chunk(3, -1)
    return [self.out_proj(part) for part in parts][2]


def one_direction_at_a_time(self: Any, image: Tensor, grid: tuple[int, int]) -> Any:
    """A pass of CLIP for each turned image."""
    image = resized(image, tuple(n * self.clip.patch_size for n in grid))
    features, guidance = self.clip_features(image, grid)
    turned = [torch.rot90(image, k, (2, 3)) for k in self.aggregator.rotations[1:]]
    return [features, *(self.clip.dense(x, grid, self.taps)[0] for x in turned)], guidance


def every_block(self: CLIP, image: Tensor, grid: tuple[int, int], taps: Any) -> list[Tensor]:
    """All blocks of RemoteCLIP."""
    return self.dense(image, grid, taps)[1]


@contextmanager
def official_order(model: Any) -> Iterator[None]:
    """Puts the re-creation in place of the shortcuts."""
    attentions = [m for m in model.modules() if getattr(m, "fused_attn", None) is True]
    with ExitStack() as stack:
        for target, name, value in (
            (layers, "guided_qkv", concatenated_qkv),
            (rskt_seg, "guided_qkv", concatenated_qkv),
            (layers.ClassAggregation, "_mix", padded_mix),
            (layers.GuidedUpsample, "forward", concatenated_upsample),
            (rskt_seg.ReducedAttention, "forward", concatenated_reduction),
            (rskt_seg.RSKTSeg, "_directions", one_direction_at_a_time),
            (Attention, "values", all_values),
            (CLIP, "tapped_maps", every_block),
            (F, "scaled_dot_product_attention", explicit_attention),
        ):
            stack.enter_context(patch.object(target, name, value))
        for module in attentions:  # timm's, of the specialist
            stack.enter_context(patch.object(module, "fused_attn", False))
        yield


def measured(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Processor seconds of a call, and its result."""
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


@torch.inference_mode()
def compare(name: str, part: str, rounds: int) -> dict[str, Any]:
    """Both ways on the same input."""
    torch.manual_seed(0)
    model = BUILDERS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    image = torch.randn(1, 3, SIZE, SIZE)
    text = F.normalize(torch.randn(CLASSES, 1, model.clip.embed_dim), dim=-1)
    call: Callable[[], Tensor] = lambda: model.score(image, text, GRID)  # noqa: E731
    if part == "head":
        given = head_inputs(model, image, text)
        call = lambda: model.aggregator(*given)  # noqa: E731
    ours, official = [], []
    for _ in range(rounds):
        seconds, result = measured(call)
        ours.append(seconds)
        with official_order(model):
            seconds, wanted = measured(call)
        official.append(seconds)
        error = float((result - wanted).abs().max() / wanted.abs().max())
        if error > 1e-4:
            raise SystemExit(f"{name}, {part}: the two ways differ by {error:.1e}")
    return {
        "model": name,
        "part": part,
        "official order, s": min(official),
        "ours, s": min(ours),
        "speed-up": min(official) / min(ours),
        "aim": AIMS.get((name, part), ""),
        "largest relative difference": error,
    }


def head_inputs(model: Any, image: Tensor, text: Tensor) -> tuple[Any, ...]:
    """What the aggregator is called with."""
    with patch.object(model.aggregator, "forward") as called:
        model.score(image, text, GRID)
    given: tuple[Any, ...] = called.call_args.args
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(BUILDERS))
    parser.add_argument("--part", choices=["head", "model"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="CAT-Seg's head once, nothing written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.smoke:
        print(compare("catseg", "head", 1))
        return
    rows = [
        compare(name, part, arguments.rounds)
        for part in ("head", "model")
        for name in BUILDERS
        if arguments.only in (None, name) and arguments.part in (None, part)
    ]
    name = "_".join(filter(None, ["ovseg_speed", arguments.part, arguments.only]))
    record(name, rows, size=SIZE, classes=CLASSES, rounds=arguments.rounds, threads=1)


if __name__ == "__main__":
    main()
