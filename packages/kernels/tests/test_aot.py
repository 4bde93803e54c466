import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from swath.kernels import aot
from swath.kernels.aot import Usage

MODULE = """
import triton
import triton.language as tl
from swath.kernels.aot import AotCase


@triton.jit
def add(x, out, n, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, tl.load(x + place, mask=place < n) + 1, mask=place < n)


@triton.jit
def broken(x):
    tl.store(x, undefined_name)


def aot_cases():
    signature = {"x": "*fp32", "out": "*fp32", "n": "i32"}
    return [
        AotCase("wide", add, signature, {"BLOCK": 1024}, divisible=("x", "out", "n")),
        AotCase("hopper", add, signature, {"BLOCK": 512}, hopper_only=True),
        AotCase("broken", broken, {"x": "*fp32"}, {}),
        AotCase("incomplete", add, {"x": "*fp32"}, {"BLOCK": 16}, hopper_only=True),
    ]
"""
USAGE = Usage(registers=40, spills=2, shared=65_536, instructions=("HMMA", "LDG.128"))
RECORD = {
    "op/case": {
        "sm_80": {"registers": 40, "spills": 2, "instructions": ["HMMA", "LDG.128"]},
        "sm_90": {"registers": 40, "spills": 2, "instructions": ["HMMA", "LDG.128"]},
    }
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Usage | str]]:
    folder = tmp_path_factory.mktemp("aot")
    (folder / "toy_kernels_of_swath.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return aot.compile_modules(["toy_kernels_of_swath"], jobs=1)


def both(usage: Usage) -> dict[str, dict[str, Usage | str]]:
    return {"op/case": {"sm_80": usage, "sm_90": usage}}


def test_a_kernel_compiles_for_both_targets_without_a_gpu(
    compiled: dict[str, dict[str, Usage | str]],
) -> None:
    targets = compiled["toy_kernels_of_swath/wide"]
    assert list(targets) == ["sm_80", "sm_90"]
    for usage in targets.values():
        assert isinstance(usage, Usage), usage
        assert 0 < usage.registers <= 64
        assert (usage.spills, usage.shared, usage.instructions) == (0, 0, ("LDG.128",))


def test_without_divisibility_loads_stay_narrow_and_hopper_cases_skip_ampere(
    compiled: dict[str, dict[str, Usage | str]],
) -> None:
    targets = compiled["toy_kernels_of_swath/hopper"]
    assert list(targets) == ["sm_90"]
    assert isinstance(targets["sm_90"], Usage)
    assert targets["sm_90"].instructions == ()


def test_what_does_not_compile_is_reported_and_does_not_stop_the_rest(
    compiled: dict[str, dict[str, Usage | str]],
) -> None:
    assert "undefined_name" in str(compiled["toy_kernels_of_swath/broken"]["sm_80"])
    problems = aot.find_problems(compiled, None)
    assert [p.partition(" doesn't")[0] for p in problems] == [
        "toy_kernels_of_swath/broken on sm_80",
        "toy_kernels_of_swath/broken on sm_90",
        "toy_kernels_of_swath/incomplete on sm_90",
    ]


def test_a_case_that_forgets_an_argument_is_told_which_there_are(
    compiled: dict[str, dict[str, Usage | str]],
) -> None:
    complaint = compiled["toy_kernels_of_swath/incomplete"]["sm_90"]
    assert "must name each of x, out, n, BLOCK once" in str(complaint)


def test_within_the_budget_there_is_no_problem() -> None:
    assert aot.find_problems(both(USAGE), RECORD) == []
    assert aot.find_problems(both(replace(USAGE, registers=48, spills=0)), RECORD) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"registers": 49}, "49 registers, the budget has 40"),
        ({"spills": 3}, "3 spills, the budget has 2"),
        ({"shared": 100 * 1024}, "102400 bytes of shared memory, limit 101376"),
        ({"instructions": ("LDG.128",)}, "lost its HMMA instructions"),
    ],
)
def test_more_than_the_budget_is_a_problem(change: dict[str, object], complaint: str) -> None:
    problems = aot.find_problems(both(replace(USAGE, **change)), RECORD)  # type: ignore[arg-type]
    assert problems == [f"op/case on sm_80: {complaint}", f"op/case on sm_90: {complaint}"]


def test_a_hopper_only_case_may_have_more_shared_memory() -> None:
    usage = replace(USAGE, shared=200 * 1024)
    results: dict[str, dict[str, Usage | str]] = {"op/case": {"sm_90": usage}}
    assert aot.find_problems(results, None) == []
    results["op/case"]["sm_90"] = replace(USAGE, shared=228 * 1024)
    assert len(aot.find_problems(results, None)) == 1


def test_a_case_or_target_without_a_record_is_a_problem_and_so_is_a_stale_record() -> None:
    assert len(aot.find_problems(both(USAGE), {})) == 2
    half = {"op/case": {"sm_80": RECORD["op/case"]["sm_80"]}}
    assert aot.find_problems(both(USAGE), half) == [
        "op/case on sm_90: not in the budget; --update records it"
    ]
    assert aot.find_problems({}, RECORD) == ["op/case: in the budget, but no longer compiled"]


def test_an_update_keeps_the_records_of_other_triton_versions(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    aot.write_budget(path, "3.6", both(replace(USAGE, registers=72)))
    aot.write_budget(path, "3.9", both(USAGE))
    aot.write_budget(path, "3.9", {**both(USAGE), "op/new": {"sm_80": USAGE, "sm_90": "failed"}})
    budget = json.loads(path.read_text())
    assert budget["3.6"]["op/case"]["sm_90"]["registers"] == 72
    assert list(budget["3.9"]["op/new"]) == ["sm_80"]
    assert aot.find_problems(both(USAGE), budget["3.9"]) == [
        "op/new: in the budget, but no longer compiled"
    ]


@pytest.mark.parametrize(("registers", "status"), [(40, 0), (50, 1)])
def test_the_command_fails_when_the_budget_is_exceeded(
    registers: int,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    budget = str(tmp_path / "budget.json")
    monkeypatch.setattr(aot, "compile_modules", lambda *_: both(USAGE))
    assert aot.main(["my.kernels", "--budget", budget, "--update"]) == 0
    usage = replace(USAGE, registers=registers)
    monkeypatch.setattr(aot, "compile_modules", lambda *_: both(usage))
    assert aot.main(["my.kernels", "--budget", budget]) == status
    shown = capsys.readouterr().out
    assert "HMMA LDG.128" in shown
    assert ("op/case on sm_90: 50 registers, the budget has 40" in shown) == bool(status)


def test_every_operator_with_triton_kernels_is_found() -> None:
    ops = Path(aot.__file__).parent / "ops"
    assert aot.operators() == [
        f"swath.kernels.ops.{path.parent.name}.triton" for path in sorted(ops.glob("*/triton.py"))
    ]


def test_every_kernel_is_compiled_by_some_case() -> None:
    modules = [importlib.import_module(name) for name in aot.operators()]
    cases = [
        case for module in modules if hasattr(module, "aot_cases") for case in module.aot_cases()
    ]
    compiled = {case.kernel.fn for case in cases}
    kernels = {
        value.fn
        for module in modules
        for value in vars(module).values()
        if type(value).__name__ in ("JITFunction", "InterpretedFunction")
    }
    called = {name for kernel in kernels for name in kernel.__code__.co_names}
    missing = {kernel.__name__ for kernel in kernels - compiled} - called
    assert not missing, f"no AotCase for {sorted(missing)}"
