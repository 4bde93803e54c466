"""CAT-Seg, GSNet and RSKT-Seg against the official code, or its order of work, on the CPU.

Run:  OMP_NUM_THREADS=1 python benchmarks/ovseg_speed.py [--only gsnet] [--part head model step]
      [--official CHECKOUT] [--smoke]

384 px, 40 classes, one template, random weights, one thread, processor time, the best of
interleaved rounds. ``head`` is aggregation and decoder in evaluation, ``model`` everything with its
texts encoded before, ``step`` a training step with its texts: forward, loss and backward. RSKT-Seg
has 3 layers, pooling is 1 in evaluation.

With ``--official`` (and ``--only``) the other side are the authors' own modules of a checkout with
our weights (`ovseg_official.py`); without, a re-creation of their order of work on our modules:
guidance repeated for each class and concatenated, classes padded to 256, explicit softmax
attention, one CLIP pass for each direction, every block of RemoteCLIP, texts of 77 tokens. Its
results must be ours (1e-4 of the largest logit), or nothing is written. Under each row is the time
by module, and of a step the tensors that are kept for the backward pass.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
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
PROMPT, CONTEXT = 12, 77
"""Tokens of the longest text, and what the official code pads to."""

BUILDERS: dict[str, Callable[[], Any]] = {
    "catseg": catseg.catseg,
    "gsnet": gsnet.gsnet,
    "rskt_seg": rskt_seg.rskt_seg,
}
MODULES = {"catseg": catseg, "gsnet": gsnet, "rskt_seg": rskt_seg}
AIMS = {
    ("catseg", "head"): 2.0,
    ("gsnet", "head"): 1.5,
    ("rskt_seg", "head"): 1.5,
    ("gsnet", "model"): 1.5,
    ("rskt_seg", "model"): 1.5,
}
"""Speed-ups that were asked for."""

Parts = list[tuple[str, Any, str]]
"""What is timed: its label, an object, and the name of the function in it."""


# The re-creation ----------------------------------------------------------------------------------


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


class Ours:
    """Our model with random weights.

    Args:
        name: Which.
        towers: Whether its towers are needed too.
    """

    def __init__(self, name: str, *, towers: bool) -> None:
        torch.manual_seed(0)
        with torch.device("meta"):
            self.model = model = BUILDERS[name]().eval()
        filled(model if towers else model.aggregator)
        for clip in (model.clip, getattr(model, "remote_clip", None)):
            if towers and clip is not None:
                clip.attn_mask = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
        self.parts: Parts = [("text", model.clip, "encode_text"), ("CLIP", model.clip, "dense")]
        if getattr(model, "remote_clip", None) is not None:
            self.parts.append(("RemoteCLIP", model.remote_clip, "tapped_maps"))
        if getattr(model, "specialist", None) is not None:
            self.parts += [
                ("specialist", model.specialist, "forward"),
                ("fusion", model.aggregator, "_embedded"),
            ]
        self.parts += [("aggregation", layer, "forward") for layer in model.aggregator.layers]
        self.parts.append(("decoder", MODULES[name], "decode"))

    def head(self, *given: Any) -> Tensor:
        """The aggregator alone."""
        logits: Tensor = self.model.aggregator(*given)
        return logits

    def score(self, image: Tensor, text: Tensor) -> Tensor:
        """Logits ``(B, T, 96, 96)`` of images of 384 px and texts ``(T, 1, E)``."""
        logits: Tensor = self.model.score(image, text, GRID)
        return logits

    def texts(self, tokens: Tensor) -> Tensor:
        """Unit vectors ``(T, 1, E)`` of tokens ``(T, 1, L)``."""
        vectors: Tensor = self.model.encode_text(tokens)
        return vectors


class Recreated(Ours):
    """The same model in the official order of work."""

    def __init__(self, ours: Ours) -> None:
        self.model, self.parts = ours.model, ours.parts

    def head(self, *given: Any) -> Tensor:
        """See `Ours`."""
        with official_order(self.model):
            return super().head(*given)

    def score(self, image: Tensor, text: Tensor) -> Tensor:
        """See `Ours`."""
        with official_order(self.model):
            return super().score(image, text)

    def texts(self, tokens: Tensor) -> Tensor:
        """See `Ours`."""
        with official_order(self.model):
            return super().texts(F.pad(tokens, (0, CONTEXT - PROMPT)))


def filled(module: nn.Module) -> None:
    """Give a module without memory random weights: of norms around 1, all others around 0."""
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(float(scale), 0.02)


def head_inputs(name: str) -> tuple[Any, ...]:
    """What the aggregator gets for one image, random."""
    text = F.normalize(torch.randn(1, CLASSES, 1, 512), dim=-1)

    def features() -> Tensor:
        return torch.randn(1, 512, *GRID)

    def finer() -> list[Tensor]:
        return [torch.randn(1, 256, 48, 48), torch.randn(1, 128, 96, 96)]

    guidance = [features(), *finer()]
    if name == "catseg":
        return features(), text, guidance
    if name == "gsnet":
        return features(), features(), text, guidance, finer()
    return [features() for _ in range(4)], features(), text, guidance, finer(), finer()


# Measuring ----------------------------------------------------------------------------------------


@contextmanager
def timed(parts: Parts) -> Iterator[Counter[str]]:
    """Sums up the processor seconds of each part's calls."""
    spent: Counter[str] = Counter()

    def timing(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            result = function(*args, **kwargs)
            spent[label] += time.process_time() - begin
            return result

        return call

    with ExitStack() as stack:
        for label, owner, name in parts:
            stack.enter_context(patch.object(owner, name, timing(label, getattr(owner, name))))
        yield spent


def measured(call: Callable[[], Tensor], parts: Parts) -> tuple[dict[str, float], Tensor]:
    """Processor seconds of a call, in all and by module, and its result."""
    with timed(parts) as spent:
        begin = time.process_time()
        result = call()
        total = time.process_time() - begin
    return {"all": total, **spent, "rest": total - spent.total()}, result


@contextmanager
def kept_for_backward() -> Iterator[list[int]]:
    """Collects the bytes of activations that autograd keeps; views of one storage count once."""
    seen: dict[int, Tensor] = {}
    total = [0]

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in seen and not isinstance(x, nn.Parameter):
            seen[storage.data_ptr()] = x  # kept alive, so that no address occurs twice
            total[0] += storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield total
    seen.clear()


def compare(name: str, part: str, rounds: int, checkout: Path | None) -> list[dict[str, Any]]:
    """Both ways on the same input: a row for the whole, and one for each module."""
    ours = Ours(name, towers=part == "model")
    theirs = other_side(name, ours, checkout)
    given = head_inputs(name)
    image, text = torch.randn(1, 3, SIZE, SIZE), F.normalize(torch.randn(CLASSES, 1, 512), dim=-1)
    results: dict[str, Tensor] = {}
    best: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        ours.head(*given)  # kernels are compiled at their first call
        for _ in range(rounds):
            for label, side in (("o", ours), ("t", theirs)):
                arguments = (image, text) if part == "model" else given
                function = side.score if part == "model" else side.head
                spent, results[label] = measured(partial(function, *arguments), side.parts)
                if label not in best or spent["all"] < best[label]["all"]:
                    best[label] = spent
    return rows(name, part, best, difference(results["o"], results["t"]))


def other_side(name: str, ours: Ours, checkout: Path | None) -> Any:
    """What we are compared with."""
    if checkout is None:
        return Recreated(ours)
    from ovseg_official import Official

    return Official(checkout, name, ours.model)


def step(name: str, rounds: int, checkout: Path | None) -> list[dict[str, Any]]:
    """A training step each way, in turn, the best of so many rounds."""
    ours = Ours(name, towers=True)
    ours.model.train()
    theirs = other_side(name, ours, checkout)
    torch.manual_seed(1)
    image, mask = torch.randn(1, 3, SIZE, SIZE), torch.randint(0, CLASSES, (1, SIZE, SIZE))
    tokens = torch.randint(1, 49406, (CLASSES, 1, PROMPT))
    tokens[..., -1] = 49407
    target = F.one_hot(mask, CLASSES).permute(0, 3, 1, 2).float()
    best: dict[str, dict[str, float]] = {}
    results, memory = {}, {}
    for label, side in (("o", ours), ("t", theirs)) * rounds:
        ours.model.zero_grad()

        def forward(side: Any = side) -> Tensor:
            logits = side.score(image, side.texts(tokens))
            logits = F.interpolate(logits, (SIZE, SIZE), mode="bilinear")
            return F.binary_cross_entropy_with_logits(logits, target)

        with kept_for_backward() as kept:
            seconds, results[label] = measured(forward, side.parts)
        begin = time.process_time()
        results[label].backward()
        seconds["backward"] = time.process_time() - begin
        seconds["all"] += seconds["backward"]
        best[label] = min(best.get(label, seconds), seconds, key=lambda s: s["all"])
        memory[label] = kept[0] / 1e6
        results[label] = results[label].detach()
    found = rows(name, "step", best, difference(results["o"], results["t"]))
    both = {"official, s": memory["t"], "ours, s": memory["o"]}
    ratio = memory["t"] / memory["o"]
    return [*found, found[0] | {"module": "kept for backward, MB", **both, "ratio": ratio}]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative to the largest value.

    Raises:
        SystemExit: If it is more than 1e-4.
    """
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    if not error <= 1e-4:
        raise SystemExit(f"the two ways differ by {error:.1e}")
    return error


def rows(
    name: str, part: str, best: dict[str, dict[str, float]], error: float
) -> list[dict[str, Any]]:
    """The whole, then each module."""
    labels = [x for x in best["t"] if best["t"][x] > 1e-4 or best["o"].get(x, 0.0) > 1e-4]
    return [
        {
            "model": name,
            "part": part,
            "module": label,
            "official, s": best["t"].get(label, 0.0),
            "ours, s": best["o"].get(label, 0.0),
            "ratio": best["t"].get(label, 0.0) / max(best["o"].get(label, 0.0), 1e-9),
            "aim": AIMS.get((name, part), "") if label == "all" else "",
            "largest relative difference": error,
        }
        for label in labels
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(BUILDERS), nargs="+", default=list(BUILDERS))
    parser.add_argument(
        "--part", choices=["head", "model", "step"], nargs="+", default=["head", "model"]
    )
    parser.add_argument("--official", type=Path, help="a checkout of the one model of --only")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="CAT-Seg's head once, nothing written")
    parser.add_argument("--name", help="of the result; default: made of what was measured")
    arguments = parser.parse_args()
    if arguments.official is not None and len(arguments.only) != 1:
        parser.error("--official takes one model: name it with --only")
    torch.set_num_threads(1)
    if arguments.smoke:
        print(compare("catseg", "head", 1, None)[0])
        return
    found = []
    for name in arguments.only:
        for part in arguments.part:
            found += (
                step(name, arguments.rounds, arguments.official)
                if part == "step"
                else compare(name, part, arguments.rounds, arguments.official)
            )
            print(*found, sep="\n", flush=True)
    kind = "recreated" if arguments.official is None else "official"
    name = arguments.name or "_".join(["ovseg_speed", kind, *arguments.part, *arguments.only])
    record(
        name,
        found,
        against=kind,
        size=SIZE,
        classes=CLASSES,
        rounds=arguments.rounds,
        threads=1,
    )


if __name__ == "__main__":
    main()
