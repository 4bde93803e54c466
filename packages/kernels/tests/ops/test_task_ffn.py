"""Feed-forward network by task: recorded tensors, mixtures of tasks, bad input, registration."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from swath.kernels import task_ffn
from swath.kernels.backend import interpreting
from swath.kernels.ops.grouped import triton as grouped
from swath.kernels.ops.task_ffn import _task_ffn, cpu

INPUTS = ("x", "w1", "b1", "w_shared", "b_shared", "w_experts", "b_experts")


def make_layer(
    *leading: int,
    channels: int = 7,
    features: int = 11,
    part: int = 3,
    experts: int = 4,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (
        (*leading, channels),
        (features, channels),
        (features,),
        (channels - part, features),
        (channels - part,),
        (experts, part, features),
        (experts, part),
    )
    made = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    for index in (1, 3, 5):
        made[index] = made[index] * made[index].shape[-1] ** -0.5
    return [tensor.requires_grad_() for tensor in made]


def by_hand(
    x: Tensor,
    w1: Tensor,
    b1: Tensor,
    w_shared: Tensor,
    b_shared: Tensor,
    w_experts: Tensor,
    b_experts: Tensor,
    ids: list[int],
) -> Tensor:
    """As the official code has it, one call for each sample."""
    outs = []
    for sample, task in zip(x, ids, strict=True):
        hidden = F.gelu(F.linear(sample, w1, b1))
        shared = F.linear(hidden, w_shared, b_shared)
        outs.append(torch.cat((shared, F.linear(hidden, w_experts[task], b_experts[task])), -1))
    return torch.stack(outs)


def assert_close_with_gradients(
    arguments: list[Tensor], got: Tensor, want: Tensor, tolerance: float = 2e-5
) -> None:
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(3)).to(got)
    pairs = zip(
        torch.autograd.grad(got, arguments, grad),
        torch.autograd.grad(want, arguments, grad, materialize_grads=True),
        strict=True,
    )
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, atol=tolerance, rtol=tolerance)


def ids_of(*ids: int, device: torch.device | str = "cpu") -> Tensor:
    return torch.tensor(ids, dtype=torch.int64, device=device)


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
    cases = [case for case in cases if case["kind"] == "s5_ffn"]
    names = {case["name"] for case in cases}
    unread = {key for key in tensors if key.split(".")[0] in names}
    worst: dict[str, float] = {}
    for case in cases:
        assert case["activation"] == "gelu_erf"

        def read(key: str, dtype: torch.dtype | None = None, name: str = case["name"]) -> Tensor:
            unread.discard(f"{name}.{key}")
            return tensors[f"{name}.{key}"].to(device, dtype)

        for dtype in (torch.float32,) if backend == "triton" else (torch.float32, torch.float64):
            arguments = [read(key, dtype).requires_grad_() for key in INPUTS]
            ids = read("task_ids")
            assert ids.tolist() == case["task_ids"]
            out = task_ffn(*arguments, ids)
            grads = torch.autograd.grad(out, arguments, read("grad_out", dtype))
            fine = 1e-12 if dtype == torch.float64 else 1e-5
            for key, got, tolerance in (
                ("out", out, fine),
                *((f"grad_{k}", g, 1e-4) for k, g in zip(INPUTS, grads, strict=True)),
            ):
                want = read(key, torch.float64)
                assert got.shape == want.shape
                if want.numel() == 0:
                    continue
                scale = want.abs().max().clamp_min(1e-30)
                error = ((got.double() - want).abs().max() / scale).item()
                assert error <= tolerance, f"{case['name']} {key} {dtype}: {error}"
                kind = f"{key[:4].rstrip('_')} {dtype}"
                worst[kind] = max(worst.get(kind, 0), error)
    assert not unread, f"tensors that no assertion reads: {sorted(unread)}"
    print(backend, {key: f"{value:.1e}" for key, value in worst.items()})


def test_every_tensor_of_the_file_belongs_to_a_known_kind(
    parity: Callable[[str], tuple[Any, dict[str, Tensor]]],
) -> None:
    cases, tensors = parity("moe")
    assert {case["kind"] for case in cases} <= {"s5_ffn", "topk"}  # test_moe_mlp reads the other
    assert {key.split(".")[0] for key in tensors} == {case["name"] for case in cases}


@pytest.mark.parametrize("ids", [(2, 2, 2), (3, 0, 3), (0, 1, 2)])
@pytest.mark.parametrize("part", [0, 1, 20, 37])
@pytest.mark.usefixtures("small_tiles")
def test_equals_one_call_for_each_sample(
    part: int, ids: tuple[int, ...], backend: str, device: torch.device
) -> None:
    layer = make_layer(3, 17, channels=37, features=45, part=part, device=device)
    out = task_ffn(*layer, ids_of(*ids, device=device))
    assert_close_with_gradients(layer, out, by_hand(*layer, list(ids)))


def test_cpu_leaves_long_runs_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWATH_KERNELS", "cpu")
    layer, ids = make_layer(5, cpu.LONG), [2, 0, 0, 2, 3]
    assert cpu._runs(torch.tensor(ids), 5 * cpu.LONG)[0] is None
    assert_close_with_gradients(layer, task_ffn(*layer, ids_of(*ids)), by_hand(*layer, ids))


@pytest.mark.usefixtures("small_tiles")
def test_a_task_for_each_token(backend: str, device: torch.device) -> None:
    layer = make_layer(23, device=device)
    ids = [(i * i) % 4 for i in range(23)]  # only 0 and 1
    out = task_ffn(*layer, ids_of(*ids, device=device))
    assert_close_with_gradients(layer, out, by_hand(*layer, ids))


@pytest.mark.parametrize("leading", [(2, 5), (5,)])
def test_one_task_for_all(leading: tuple[int, ...], backend: str, device: torch.device) -> None:
    layer = make_layer(*leading, device=device)
    ids = torch.full(leading[:1], 2, device=device)
    assert_close_with_gradients(layer, task_ffn(*layer, 2), task_ffn(*layer, ids))


def test_an_expert_without_samples_gets_zeros(backend: str, device: torch.device) -> None:
    layer = make_layer(3, 5, device=device)
    out = task_ffn(*layer, ids_of(3, 1, 3, device=device))
    for grad in torch.autograd.grad(out.square().sum(), layer)[5:]:
        assert [bool(g.any()) for g in grad] == [False, True, False, True]


@pytest.mark.parametrize("leading", [(0, 5), (3, 0), (0,)])
def test_nothing_gives_nothing(
    leading: tuple[int, ...], backend: str, device: torch.device
) -> None:
    layer = make_layer(*leading, device=device)
    out = task_ffn(*layer, torch.zeros(leading[0], dtype=torch.int64, device=device))
    assert out.shape == (*leading, 7)
    assert out.requires_grad
    grads = torch.autograd.grad(out.sum(), layer)
    assert all(not grad.any() for grad in grads)


def test_strides_do_not_matter(backend: str, device: torch.device) -> None:
    layer, ids = make_layer(3, 5, device=device), ids_of(3, 1, 0, device=device)
    want = task_ffn(*layer, ids)
    strided = [
        (t.detach().mT.contiguous().mT if t.ndim > 1 else t.detach()).requires_grad_()
        for t in layer
    ]
    out = task_ffn(*strided, ids)
    torch.testing.assert_close(out, want)
    grads = torch.autograd.grad(out, strided, torch.ones_like(out.mT).mT)
    for a, b in zip(grads, torch.autograd.grad(want.sum(), layer), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_nan_stays_in_its_token(backend: str, device: torch.device) -> None:
    layer, ids = make_layer(3, 5, device=device), ids_of(3, 1, 3, device=device)
    clean = task_ffn(*layer, ids)
    with torch.no_grad():
        layer[0][1, 2, 3] = float("nan")
    out = task_ffn(*layer, ids)
    hit = torch.zeros(out.shape, dtype=torch.bool, device=device)
    hit[1, 2] = True
    assert torch.equal(out.isnan(), hit)
    torch.testing.assert_close(out[~hit], clean[~hit], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_two_steps_of_the_largest_output(
    dtype: torch.dtype, backend: str, device: torch.device
) -> None:
    layer = make_layer(4, 16, channels=24, features=40, part=8, device=device, dtype=dtype)
    ids = ids_of(1, 0, 3, 1, device=device)
    out = task_ffn(*layer, ids)
    assert out.dtype == dtype
    exact = [t.detach().double().requires_grad_() for t in layer]
    want = by_hand(*exact, ids.tolist())
    step = torch.finfo(dtype).eps * 2 ** want.abs().max().log2().floor()
    error = (out.double() - want).abs() / step
    slack = 2 if interpreting() and dtype == torch.bfloat16 else 1  # its casts truncate
    assert error.max() <= 2 * slack
    assert error.mean() <= 0.25 * slack
    pairs = zip(
        torch.autograd.grad(out.float().square().sum(), layer),
        torch.autograd.grad(want.square().sum(), exact, materialize_grads=True),
        strict=True,
    )
    for mine, theirs in pairs:
        assert (mine.double() - theirs).abs().max() <= 16 * torch.finfo(
            dtype
        ).eps * theirs.abs().max()


def test_autocast_chooses_the_dtype(backend: str, device: torch.device) -> None:
    layer = make_layer(2, 5, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        out = task_ffn(*layer, 1)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), task_ffn(*layer, 1), atol=0.05, rtol=0.05)
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(out.float().sum(), layer))


def test_results_repeat_bit_for_bit(backend: str, device: torch.device) -> None:
    layer, ids = make_layer(3, 5, device=device), ids_of(3, 1, 3, device=device)
    runs = []
    for _ in range(2):
        out = task_ffn(*layer, ids)
        runs.append([out, *torch.autograd.grad(out.square().sum(), layer)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("backend", ["cpu", "triton"], indirect=True)
def test_nothing_is_written_outside_the_results(
    backend: str, device: torch.device, guarded: Callable[[], None]
) -> None:
    layer = make_layer(3, 5, device=device)
    task_ffn(*layer, ids_of(3, 1, 3, device=device)).square().sum().backward()
    guarded()


@pytest.mark.parametrize("backend", ["reference", "cpu"], indirect=True)
def test_gradcheck(backend: str) -> None:
    layer = make_layer(3, 2, channels=3, features=2, part=2, experts=2, dtype=torch.float64)
    ids = ids_of(1, 0, 1)
    assert torch.autograd.gradcheck(lambda *t: task_ffn(*t, ids), layer)


def test_opcheck(backend: str, device: torch.device) -> None:
    layer = make_layer(6, device=device)
    torch.library.opcheck(_task_ffn, (*layer, ids_of(3, 0, device=device), True))


def test_compiles_without_graph_breaks(backend: str, device: torch.device) -> None:
    compiled = torch.compile(task_ffn, fullgraph=True, dynamic=True, backend="aot_eager")
    for batch in (2, 3):
        layer = make_layer(batch, 5, device=device)
        for ids in (torch.arange(batch, device=device), 1):
            results = [f(*layer, ids) for f in (compiled, task_ffn)]
            torch.testing.assert_close(*results)
            grads = [torch.autograd.grad(out.square().sum(), layer) for out in results]
            torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("x", torch.ones(7), ValueError, r"x must be.*\(7,\)"),
        ("x", torch.ones(3, 5, 7).int(), TypeError, r"x must.*int32.*\(3, 5, 7\)"),
        ("x", torch.ones(3, 5, 7).double(), TypeError, r"w1.*float64.*\(11, 7\)"),
        ("w1", torch.ones(11, 8), ValueError, r"w1 must be \(F, 7\); got \(11, 8\)"),
        ("b1", torch.ones(7), ValueError, r"b1 must be \(11,\).*got \(7,\)"),
        ("w_shared", torch.ones(5, 11), ValueError, r"w_shared must be \(4, 11\).*\(5, 11\)"),
        ("b_shared", torch.ones(5), ValueError, r"b_shared must be \(4,\).*\(5,\)"),
        ("w_experts", torch.ones(3, 11), ValueError, r"w_experts must.*\(3, 11\)"),
        ("b_experts", torch.ones(4, 4), ValueError, r"b_experts must be \(4, 3\).*\(4, 4\)"),
        ("b1", torch.ones(11, device="meta"), ValueError, r"one device.*b1 on meta"),
        ("task_ids", 4, ValueError, r"task_ids must be in \[0, 4\); got 4"),
        ("task_ids", -1, ValueError, r"task_ids must be in \[0, 4\); got -1"),
        ("task_ids", ids_of(0, 4, 1), ValueError, r"task_ids.*\[0, 4\); got \[0, 1, 4\]"),
        ("task_ids", ids_of(0, -1, 1), ValueError, r"task_ids.*\[0, 4\); got \[-1, 0, 1\]"),
        ("task_ids", ids_of(0, 1), ValueError, r"task_ids must be \(3,\).*sample.*got \(2,\)"),
        ("task_ids", ids_of(0, 1, 2).int(), TypeError, r"task_ids must be int64; got.*int32"),
    ],
)
def test_refuses(name: str, value: Any, error: type[Exception], message: str) -> None:
    layer = dict(zip(INPUTS, make_layer(3, 5), strict=True))
    with pytest.raises(error, match=message):
        task_ffn(**layer | {"task_ids": ids_of(0, 1, 2)} | {name: value})


@triton.jit
def _store_slots(out, order, offsets, experts: tl.constexpr, span, block: tl.constexpr):
    _, slot, _ = grouped._rows_of(0, order, offsets, 1, span, 0, experts, block)
    tl.store(out + tl.arange(0, block), slot * 3)


def test_places_of_rows_pass_two_to_the_31() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out, order = torch.zeros(4, dtype=torch.int64, device=device), torch.tensor([2**29])
    offsets = torch.tensor([0, 4, 1])
    _store_slots[(1,)](out, order.to(device), offsets.to(device), experts=1, span=4, block=4)
    assert out.tolist() == [3 * (2**31 + row) for row in range(4)]
