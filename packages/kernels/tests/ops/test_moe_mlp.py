"""Mixture of experts: recorded tensors, routing as a permutation, bad numbers, registration."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swath.kernels import load_balance_loss, moe_mlp
from swath.kernels.backend import interpreting
from swath.kernels.ops.grouped import triton as grouped
from swath.kernels.ops.moe_mlp import ACTIVATIONS, _moe_mlp, _moe_route

INPUTS = ("x", "router_logits", "w1", "b1", "w2", "b2")
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_erf": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def make_layer(
    tokens: int = 11,
    experts: int = 4,
    *,
    channels: int = 6,
    features: int = 10,
    gated: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = 2 * features if gated else features
    shapes = (
        (tokens, channels),
        (tokens, experts),
        (experts, rows, channels),
        (experts, rows),
        (experts, channels, features),
        (experts, channels),
    )
    made = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    made[2], made[4] = made[2] * channels**-0.5, made[4] * features**-0.5
    return [tensor.requires_grad_() for tensor in made]


def by_hand(
    x: Tensor,
    logits: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    top_k: int,
    activation: str = "gelu_erf",
    renormalise: bool = True,
) -> Tensor:
    """Every expert for every token, then the chosen ones; differentiable by torch."""
    hidden = torch.einsum("tc,efc->tef", x, w1) + b1
    if w1.shape[1] == 2 * w2.shape[2]:
        gate, up = hidden.chunk(2, -1)
        hidden = FUNCTIONS[activation](gate) * up
    else:
        hidden = FUNCTIONS[activation](hidden)
    every = torch.einsum("tef,ecf->tec", hidden, w2) + b2
    gates, ids = logits.softmax(-1).topk(top_k, -1)
    if renormalise:
        gates = gates / gates.sum(-1, keepdim=True)
    return (gates[..., None] * every.gather(1, ids[..., None].expand(-1, -1, x.shape[1]))).sum(1)


def assert_close_with_gradients(
    arguments: list[Tensor], got: Tensor, want: Tensor, tolerance: float = 2e-5
) -> None:
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(3)).to(got)
    pairs = zip(
        torch.autograd.grad(got, arguments, grad),
        torch.autograd.grad(want, arguments, grad),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16, so that small sizes need several of each."""
    if interpreting():
        block = grouped.Tiles(16, 32, 16, 4)
        monkeypatch.setattr(grouped, "tiles", lambda *_: block)
        monkeypatch.setattr(grouped, "weight_tiles", lambda _: block)


@pytest.mark.parity
def test_recorded_cases(
    parity: Callable[[str], tuple[Any, dict[str, Tensor]]], backend: str, device: torch.device
) -> None:
    cases, tensors = parity("moe")
    cases = [case for case in cases if case["kind"] == "topk"]
    names = {case["name"] for case in cases}
    unread = {key for key in tensors if key.split(".")[0] in names}
    worst: dict[str, float] = {}
    for case in cases:

        def read(key: str, dtype: torch.dtype | None = None, name: str = case["name"]) -> Tensor:
            unread.discard(f"{name}.{key}")
            return tensors[f"{name}.{key}"].to(device, dtype)

        for dtype in (torch.float32,) if backend == "triton" else (torch.float32, torch.float64):
            there = [key for key in INPUTS if f"{case['name']}.{key}" in tensors]
            inputs = {key: read(key, dtype).requires_grad_() for key in there}
            arguments = [inputs.get(key) for key in INPUTS]
            out, routing = moe_mlp(*arguments, case["K"], case["activation"], case["renormalise"])
            assert routing.counts.tolist() == case["counts"]
            for key, indices in (
                ("counts", routing.counts),
                ("topk_ids", routing.expert_ids),
                ("sorted_expert_ids", routing.sorted_expert_ids),
                ("sorted_token_slot", routing.sorted_token_slot),
            ):
                assert torch.equal(indices, read(key)), f"{case['name']} {key}"
            grads = torch.autograd.grad(out, list(inputs.values()), read("grad_out", dtype))
            fine = 1e-12 if dtype == torch.float64 else 1e-5
            for key, got, tolerance in (
                ("out", out, fine),
                ("topk_weights", routing.gates, fine),
                *((f"grad_{k}", g, 1e-4) for k, g in zip(there, grads, strict=True)),
            ):
                want = read(key, torch.float64)
                assert got.shape == want.shape
                if want.numel() == 0:
                    continue
                scale = want.abs().max().clamp_min(1e-30)
                error = ((got.double() - want).abs().max() / scale).item()
                assert error <= tolerance, f"{case['name']} {key} {dtype}: {error}"
                kind = f"{key if key in ('out', 'topk_weights') else 'grad'} {dtype}"
                worst[kind] = max(worst.get(kind, 0), error)
    assert not unread, f"tensors that no assertion reads: {sorted(unread)}"
    print(backend, {key: f"{value:.1e}" for key, value in worst.items()})


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k"), [(11, 4, 2), (1, 4, 1), (1, 1, 1), (7, 3, 3), (40, 5, 2)]
)
@pytest.mark.usefixtures("small_tiles")
def test_equals_every_expert_for_every_token(
    tokens: int, experts: int, top_k: int, backend: str, device: torch.device
) -> None:
    layer = make_layer(tokens, experts, channels=19, features=35, device=device)
    assert_close_with_gradients(layer, moe_mlp(*layer, top_k)[0], by_hand(*layer, top_k))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation: str, gated: bool, backend: str, device: torch.device) -> None:
    layer = make_layer(gated=gated, device=device)
    out, _ = moe_mlp(*layer, 2, activation, renormalise=False)
    assert_close_with_gradients(layer, out, by_hand(*layer, 2, activation, renormalise=False))


def test_biases_are_optional(backend: str, device: torch.device) -> None:
    x, logits, w1, b1, w2, b2 = make_layer(device=device)
    zeros = [torch.zeros_like(b) for b in (b1, b2)]
    out, _ = moe_mlp(x, logits, w1, None, w2, None, 2)
    want = by_hand(x, logits, w1, zeros[0], w2, zeros[1], 2)
    assert_close_with_gradients([x, logits, w1, w2], out, want)


@pytest.mark.parametrize("top_k", [1, 3])
def test_all_tokens_to_the_same_experts(top_k: int, backend: str, device: torch.device) -> None:
    layer = make_layer(20, 5, device=device)
    with torch.no_grad():
        layer[1][:, :top_k] += 100
    out, routing = moe_mlp(*layer, top_k)
    assert routing.counts.tolist() == [20] * top_k + [0] * (5 - top_k)
    for grad in torch.autograd.grad(out.sum(), layer[2:]):
        assert grad[:top_k].any()
        assert not grad[top_k:].any()


def test_equal_logits_go_to_the_lower_expert(backend: str, device: torch.device) -> None:
    layer = make_layer(3, 6, device=device)
    layer[1] = torch.tensor(
        [[0.0] * 6, [1, 2, 2, 1, 2, 0], [float("-inf")] * 4 + [0.0, float("-inf")]], device=device
    )
    _, routing = moe_mlp(*layer, 4)
    assert routing.expert_ids.tolist() == [[0, 1, 2, 3], [1, 2, 4, 0], [4, 0, 1, 2]]
    assert routing.gates[2].tolist() == [1, 0, 0, 0]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_routing_permutes_slots_without_losing_any(data: st.DataObject) -> None:
    tokens, experts = data.draw(st.integers(0, 90)), data.draw(st.integers(1, 9))
    top_k = data.draw(st.integers(1, experts))
    values = st.lists(st.integers(-3, 3), min_size=tokens * experts, max_size=tokens * experts)
    logits = torch.tensor(data.draw(values), dtype=torch.float32).view(tokens, experts)
    with pytest.MonkeyPatch.context() as patch:
        results = []
        for name in ("cpu", "triton") if interpreting() else ("cpu",):
            patch.setenv("SWATH_KERNELS", name)
            results.append(_moe_route(logits, top_k, True))
    gates, ids, order, offsets = results[0]
    assert sorted(order.tolist()) == list(range(tokens * top_k))
    assert int(offsets[-1]) == tokens * top_k
    by_expert = ids.flatten()[order]
    assert torch.equal(by_expert, by_expert.sort().values)
    for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        assert order[first:last].tolist() == sorted(order[first:last].tolist())
    assert all(len(set(row)) == top_k for row in ids.tolist())
    torch.testing.assert_close(gates.sum(1), torch.ones(tokens))
    for other in results[1:]:
        torch.testing.assert_close(other[0], gates)
        assert all(torch.equal(a, b) for a, b in zip(other[1:], results[0][1:], strict=True))


def test_counting_sort_is_stable_over_blocks(device: torch.device) -> None:
    if not interpreting():
        device = torch.device("cuda")
    ids = torch.randint(
        0, 7, (3 * grouped.SORT_BLOCK + 5,), generator=torch.Generator().manual_seed(0)
    )
    order, offsets = grouped.sort_by_expert(ids.to(device), 7, span=4)
    assert torch.equal(order.cpu(), ids.argsort(stable=True))
    assert offsets.tolist() == [0, *(4 * ids.bincount(minlength=7).cumsum(0)).tolist()]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_row_poisons_only_its_token(bad: float, backend: str, device: torch.device) -> None:
    layer = make_layer(device=device)
    clean, _ = moe_mlp(*layer, 2)
    with torch.no_grad():
        layer[1][3, 1] = bad
        layer[1][5] = float("-inf")
        layer[0][7, 2] = float("nan")
    out, routing = moe_mlp(*layer, 2)
    poisoned = torch.zeros(len(out), dtype=torch.bool, device=device)
    poisoned[[3, 5, 7]] = True
    assert out[poisoned].isnan().all()
    torch.testing.assert_close(out[~poisoned], clean[~poisoned], atol=1e-6, rtol=1e-6)
    assert ((routing.expert_ids >= 0) & (routing.expert_ids < 4)).all()
    assert routing.counts.sum() == 22


def test_no_tokens(backend: str, device: torch.device) -> None:
    layer = make_layer(0, device=device)
    out, routing = moe_mlp(*layer, 2)
    assert out.shape == (0, 6)
    assert all(not g.any() for g in torch.autograd.grad(out.sum(), layer))
    assert not routing.counts.any()
    assert load_balance_loss(routing).item() == 0


def test_load_balance_loss_is_one_for_a_uniform_load_and_e_for_a_collapse() -> None:
    x, _, *weights = make_layer(8, 4)
    uniform = torch.eye(4).repeat(2, 1) * 1e-3
    assert load_balance_loss(moe_mlp(x, uniform, *weights, 1)[1]).item() == pytest.approx(1)
    collapsed = torch.tensor([[50.0, 0, 0, 0]]).repeat(8, 1).requires_grad_()
    loss = load_balance_loss(moe_mlp(x, collapsed, *weights, 1)[1])
    assert loss.item() == pytest.approx(4)
    soft = (collapsed.detach() / 50).requires_grad_()
    (grad,) = torch.autograd.grad(load_balance_loss(moe_mlp(x, soft, *weights, 1)[1]), soft)
    assert (grad[:, 0] > 0).all()


def test_strides_do_not_matter(backend: str, device: torch.device) -> None:
    layer = make_layer(device=device)
    want, _ = moe_mlp(*layer, 2)
    strided = [t.detach().mT.contiguous().mT.requires_grad_() for t in layer]
    out, _ = moe_mlp(*strided, 2)
    torch.testing.assert_close(out, want)
    grads = torch.autograd.grad(out, strided, torch.ones_like(out.mT).mT)
    for a, b in zip(grads, torch.autograd.grad(want.sum(), layer), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_two_steps_of_the_largest_output(
    dtype: torch.dtype, backend: str, device: torch.device
) -> None:
    layer = make_layer(64, channels=24, features=40, device=device, dtype=dtype)
    out, _ = moe_mlp(*layer, 2)
    assert out.dtype == dtype
    exact = [t.detach().double().requires_grad_() for t in layer]
    want = by_hand(*exact, 2)
    step = torch.finfo(dtype).eps * 2 ** want.abs().max().log2().floor()
    error = (out.double() - want).abs() / step
    slack = 2 if interpreting() and dtype == torch.bfloat16 else 1  # its casts truncate
    assert error.max() <= 2 * slack
    assert error.mean() <= 0.25 * slack
    pairs = zip(
        torch.autograd.grad(out.float().square().sum(), layer),
        torch.autograd.grad(want.square().sum(), exact),
        strict=True,
    )
    for mine, theirs in pairs:
        assert (mine.double() - theirs).abs().max() <= 16 * torch.finfo(
            dtype
        ).eps * theirs.abs().max()


def test_routing_stays_in_float32_under_autocast(backend: str, device: torch.device) -> None:
    layer = make_layer(device=device)
    with torch.autocast(device.type, torch.bfloat16):
        out, routing = moe_mlp(*layer, 2)
    assert out.dtype == torch.bfloat16
    assert routing.gates.dtype == torch.float32
    full, exact = moe_mlp(*layer, 2)
    torch.testing.assert_close(routing.gates, exact.gates, atol=0, rtol=0)
    torch.testing.assert_close(out.float(), full, atol=0.05, rtol=0.05)


def test_results_repeat_bit_for_bit(backend: str, device: torch.device) -> None:
    layer = make_layer(device=device)
    runs = []
    for _ in range(2):
        out, _ = moe_mlp(*layer, 3)
        runs.append([out, *torch.autograd.grad(out.square().sum(), layer)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("backend", ["cpu", "triton"], indirect=True)
def test_nothing_is_written_outside_the_results(
    top_k: int, backend: str, device: torch.device, guarded: Callable[[], None]
) -> None:
    layer = make_layer(gated=True, device=device)
    moe_mlp(*layer, top_k)[0].square().sum().backward()
    guarded()


@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
@pytest.mark.parametrize(("activation", "gated"), [(a, a == "silu") for a in ACTIVATIONS])
def test_gradcheck(activation: str, gated: bool, backend: str) -> None:
    layer = make_layer(3, 3, channels=2, features=3, gated=gated, dtype=torch.float64)

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        out, routing = moe_mlp(*tensors, 2, activation)
        return out, load_balance_loss(routing)

    assert torch.autograd.gradcheck(run, layer)


def test_opcheck(backend: str, device: torch.device) -> None:
    x, logits, *weights = make_layer(5, device=device)
    torch.library.opcheck(_moe_route, (logits, 2, True))
    gates, _, order, offsets = (t.detach() for t in _moe_route(logits, 2, True))
    gates.requires_grad_()
    torch.library.opcheck(_moe_mlp, (x, gates, order, offsets, *weights, "silu", True))


def test_compiles_without_graph_breaks(backend: str, device: torch.device) -> None:
    compiled = torch.compile(moe_mlp, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (5, 9):
        layer = make_layer(tokens, device=device)
        results = [f(*layer, 2)[0] for f in (compiled, moe_mlp)]
        torch.testing.assert_close(*results)
        grads = [torch.autograd.grad(out.square().sum(), layer) for out in results]
        torch.testing.assert_close(*grads)


def test_tiles_follow_the_load() -> None:
    sizes = [grouped.tiles(rows, 4, torch.bfloat16).m for rows in (8, 256, 1024, 2048, 4096, 65536)]
    assert sizes == [32, 32, 64, 64, 128, 128]
    assert grouped.tiles(65536, 4, torch.float32) == grouped.Tiles(64, 64, 32, 4)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("x", torch.ones(2, 11, 6), ValueError, r"x must be \(T, C\).*\(2, 11, 6\)"),
        ("x", torch.ones(11, 6).long(), TypeError, r"x must.*int64.*\(11, 6\)"),
        ("x", torch.ones(11, 6).double(), TypeError, r"w1.*float64.*\(4, 10, 6\)"),
        ("router_logits", torch.ones(11, 5), ValueError, r"router_logits.*\(11, 4\).*\(11, 5\)"),
        ("w1", torch.ones(4, 11, 6), ValueError, r"w1.*10 or 20.*\(4, 11, 6\)"),
        ("b1", torch.ones(4, 11), ValueError, r"b1.*\(4, 10\).*\(4, 11\)"),
        ("w2", torch.ones(4, 7, 10), ValueError, r"w2.*\(E, 6, F\).*\(4, 7, 10\)"),
        ("b2", torch.ones(6), ValueError, r"b2.*\(4, 6\).*\(6,\)"),
        ("b2", torch.ones(4, 6, device="meta"), ValueError, r"one device.*b2 on meta"),
        ("top_k", 0, ValueError, r"top_k must be in 1 to 4.*got 0"),
        ("top_k", 5, ValueError, r"top_k must be in 1 to 4.*got 5"),
        ("activation", "tanh", ValueError, r"activation.*gelu_erf.*'tanh'"),
    ],
)
def test_refuses(name: str, value: Any, error: type[Exception], message: str) -> None:
    arguments = dict(zip(INPUTS, make_layer(), strict=True)) | {"top_k": 2} | {name: value}
    with pytest.raises(error, match=message):
        moe_mlp(**arguments)
