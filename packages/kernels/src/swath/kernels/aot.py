"""Compile Triton kernels for GPUs that aren't there, and hold them to a budget.

``python -m swath.kernels.aot`` compiles what every ``aot_cases()`` lists, for sm_80 and sm_90, with
the tools inside the triton wheel; it needs neither a GPU nor a CUDA toolkit. A table shows each
kernel's registers, shared memory, spills and the instructions that matter; with ``--budget FILE``
the command fails when a kernel uses more than the file records, isn't in it, or lost its tensor
core or 128-bit instructions. ``--update`` writes the file. Records are kept per minor version of
triton, since compilers differ.

Your own kernels: give the names of modules that have an ``aot_cases()``.

Source:
    ``triton.compiler.compile`` with an explicit target; ``cuobjdump -res-usage`` and ``nvdisasm``.
    Spills are counted as local loads and stores in the machine code, because a stack alone proves
    none (the range reduction of sin and cos has a table on it).
"""

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

TARGETS = (80, 90)
SHARED_LIMIT = 99 * 1024  # what one block can have on sm_86 and sm_89, which run sm_80 code
HOPPER_SHARED_LIMIT = 227 * 1024
REGISTER_SLACK = 8
INSTRUCTIONS = {
    "HGMMA": r"\bHGMMA\b",  # matrix units of sm_90
    "HMMA": r"\bHMMA\b",  # matrix units of sm_80
    "LDG.128": r"\bLDG\.E[\w.]*\.128\b",  # 16 bytes a load
    "LDGSTS.128": r"\bLDGSTS\.E[\w.]*\.128\b",  # the same, straight into shared memory
}
SPILL = re.compile(r"\b(?:STL|LDL)\b")


@dataclass(frozen=True)
class AotCase:
    """One kernel in one configuration that its launcher can choose.

    Attributes:
        name: Unique within its module: kernel, configuration and dtypes.
        kernel: The function that ``triton.jit`` returned.
        signature: Type of every argument that isn't a constexpr: ``"*bf16"``, ``"i32"``, ``"fp32"``
            and the like.
        constexprs: Value of every constexpr, and None for optional pointers that are absent.
        num_warps: As launched.
        num_stages: As launched.
        divisible: Arguments that the launcher would find divisible by 16 (nearly all pointers, and
            sizes and strides where the case says so); loads aren't vectorised without.
        hopper_only: Whether the launcher chooses it on compute capability 9 only, where a block
            may have 227 instead of 99 KiB of shared memory.
        enable_fp_fusion: As launched.
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    num_warps: int = 4
    num_stages: int = 3
    divisible: tuple[str, ...] = ()
    hopper_only: bool = False
    enable_fp_fusion: bool = True


@dataclass(frozen=True)
class Usage:
    """What the machine code of one case takes on one target.

    Attributes:
        registers: Per thread.
        spills: Local loads and stores in the code.
        shared: Bytes of shared memory per block.
        instructions: Which of `INSTRUCTIONS` occur.
    """

    registers: int
    spills: int
    shared: int
    instructions: tuple[str, ...]


def compile_case(case: AotCase, capability: int) -> Usage:
    """Compile one case for ``sm_<capability>`` and look at the machine code.

    Raises:
        ValueError: If signature and constexprs don't name the kernel's arguments, each once.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    arguments = list(case.kernel.arg_names)
    given = [*case.signature, *case.constexprs]
    if sorted(given) != sorted(arguments) or not set(case.divisible) <= set(case.signature):
        raise ValueError(
            f"signature and constexprs of {case.name} must name each of {', '.join(arguments)} "
            f"once, and divisible only names of the signature; got {', '.join(given)} "
            f"and {', '.join(case.divisible) or 'none'}"
        )
    source = ASTSource(
        fn=case.kernel,
        signature={name: case.signature.get(name, "constexpr") for name in arguments},
        constexprs=case.constexprs,
        attrs={(arguments.index(name),): [["tt.divisibility", 16]] for name in case.divisible},
    )
    options = ("num_warps", "num_stages", "enable_fp_fusion")
    compiled = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={option: getattr(case, option) for option in options},
    )
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(compiled.asm["cubin"])
        registers = re.search(r"\bREG:(\d+)", _tool("cuobjdump", "-res-usage", cubin))
        code = _tool("nvdisasm", "-c", cubin)
    if registers is None:
        raise RuntimeError(f"cuobjdump said nothing about the registers of {case.name}")
    return Usage(
        registers=int(registers[1]),
        spills=len(SPILL.findall(code)),
        shared=compiled.metadata.shared,
        instructions=tuple(k for k, pattern in INSTRUCTIONS.items() if re.search(pattern, code)),
    )


def compile_modules(modules: Sequence[str], jobs: int = 2) -> dict[str, dict[str, Usage | str]]:
    """Compile all cases of the modules, in fresh processes in which Triton doesn't interpret.

    Returns:
        Case -> target -> what it takes, or the compiler's complaint.
    """
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(
            jobs, multiprocessing.get_context("spawn"), initializer=_prepare, initargs=(cache,)
        ) as pool,
    ):
        listed = zip(modules, pool.map(_list_targets, modules), strict=True)
        work = [
            (f"{_operator(module)}/{name}", (module, name, capability))
            for module, cases in listed
            for name, capabilities in cases
            for capability in capabilities
        ]
        print(f"compiling {len(work)} kernels", file=sys.stderr)
        usages = pool.map(_compile, *zip(*(task for _, task in work), strict=True)) if work else ()
        results: dict[str, dict[str, Usage | str]] = {}
        for (label, (_, _, capability)), usage in zip(work, usages, strict=True):
            results.setdefault(label, {})[f"sm_{capability}"] = usage
    return results


def find_problems(
    results: Mapping[str, Mapping[str, Usage | str]],
    record: Mapping[str, Mapping[str, Mapping[str, Any]]] | None,
) -> list[str]:
    """Why the kernels can't ship, one line each; empty when all is well.

    Args:
        results: What `compile_modules` returned.
        record: The budget's section of this triton version: case -> target -> fields of `Usage`;
            None to ask only that all cases compile.
    """
    problems = []
    for name, targets in results.items():
        for target, usage in targets.items():
            where = f"{name} on {target}"
            if isinstance(usage, str):
                problems.append(f"{where} doesn't compile: {usage}")
                continue
            limit = SHARED_LIMIT if len(targets) == len(TARGETS) else HOPPER_SHARED_LIMIT
            if usage.shared > limit:
                problems.append(f"{where}: {usage.shared} bytes of shared memory, limit {limit}")
            if record is not None:
                allowed = record.get(name, {}).get(target)
                problems += [f"{where}: {excess}" for excess in _excesses(usage, allowed)]
    dropped = [name for name in record or {} if name not in results]
    return problems + [f"{name}: in the budget, but no longer compiled" for name in dropped]


def read_budget(path: Path) -> dict[str, Any]:
    """The budget file: triton's minor version -> case -> target -> fields of `Usage`."""
    budget: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return budget


def write_budget(path: Path, triton: str, results: Mapping[str, Mapping[str, Usage | str]]) -> None:
    """Replace one triton version's section by what was just compiled; failures are left out."""
    measured = {
        name: {target: asdict(u) for target, u in targets.items() if isinstance(u, Usage)}
        for name, targets in results.items()
    }
    sections = []
    for key, section in sorted({**read_budget(path), triton: measured}.items()):
        rows = [f"  {json.dumps(name)}: {json.dumps(section[name])}" for name in sorted(section)]
        sections.append(f" {json.dumps(key)}: {{\n" + ",\n".join(rows) + "\n }")
    path.write_text("{\n" + ",\n".join(sections) + "\n}\n")  # a line per case: readable diffs


def format_table(results: Mapping[str, Mapping[str, Usage | str]]) -> str:
    """One line per case and target."""
    width = max([len(name) for name in results] + [4])
    lines = [f"{'case':{width}}  target  registers  spills  shared KiB  instructions"]
    for name, targets in results.items():
        for target, usage in targets.items():
            if isinstance(usage, str):
                lines.append(f"{name:{width}}  {target:6}  failed")
                continue
            lines.append(
                f"{name:{width}}  {target:6}  {usage.registers:9}  {usage.spills:6}  "
                f"{usage.shared / 1024:10.1f}  {' '.join(usage.instructions)}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m swath.kernels.aot",
        description="Compile Triton kernels for sm_80 and sm_90 without a GPU.",
    )
    parser.add_argument("modules", nargs="*", help="default: all operators of swath.kernels")
    parser.add_argument("--budget", type=Path, help="JSON file with what each kernel may take")
    parser.add_argument("--update", action="store_true", help="write the budget, don't check it")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args(arguments)
    if options.update and options.budget is None:
        parser.error("--update needs --budget FILE")

    triton = ".".join(version("triton").split(".")[:2])
    results = compile_modules(options.modules or operators(), options.jobs)
    print(f"triton {triton}\n{format_table(results)}")
    if options.update:
        write_budget(options.budget, triton, results)
    record = read_budget(options.budget).get(triton, {}) if options.budget else None
    problems = find_problems(results, record)
    print("\n".join(["", *problems] if problems else [f"{len(results)} cases, no problems"]))
    return 1 if problems else 0


def operators() -> list[str]:
    """Names of the modules of ``swath.kernels.ops`` that have Triton kernels."""
    package = importlib.import_module("swath.kernels.ops")
    names = [f"{package.__name__}.{m.name}.triton" for m in pkgutil.iter_modules(package.__path__)]
    return [name for name in names if importlib.util.find_spec(name)]


def _operator(module: str) -> str:
    return module.removeprefix("swath.kernels.ops.").removesuffix(".triton")


def _excesses(usage: Usage, allowed: Mapping[str, Any] | None) -> list[str]:
    if allowed is None:
        return ["not in the budget; --update records it"]
    found = []
    if usage.registers > allowed["registers"] + REGISTER_SLACK:
        found.append(f"{usage.registers} registers, the budget has {allowed['registers']}")
    if usage.spills > allowed["spills"]:
        found.append(f"{usage.spills} spills, the budget has {allowed['spills']}")
    lost = sorted(set(allowed["instructions"]) - set(usage.instructions))
    return found + [f"lost its {name} instructions" for name in lost]


def _prepare(cache: str) -> None:
    """In a worker, before it imports triton: compile for real, and into a folder that goes away."""
    os.environ.update(TRITON_INTERPRET="0", TRITON_CACHE_DIR=cache)


def _cases(module: str) -> dict[str, AotCase]:
    # what only serves other operators is in their cases
    cases: list[AotCase] = getattr(importlib.import_module(module), "aot_cases", list)()
    by_name = {case.name: case for case in cases}
    if len(by_name) < len(cases):
        raise ValueError(f"aot_cases() of {module} gives a name twice: {[c.name for c in cases]}")
    return by_name


def _list_targets(module: str) -> list[tuple[str, tuple[int, ...]]]:
    return [(c.name, TARGETS[-1:] if c.hopper_only else TARGETS) for c in _cases(module).values()]


def _compile(module: str, name: str, capability: int) -> Usage | str:
    try:
        return compile_case(_cases(module)[name], capability)
    except Exception as error:  # compilers raise anything, and much of it can't be pickled
        return f"{type(error).__name__}: {error}"


def _tool(name: str, *arguments: str | Path) -> str:
    """Output of one of the CUDA tools inside the triton wheel."""
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
