"""Back ends, devices and the recorded tensors that every operator is tested with."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

BACKENDS = ("reference", "cpu", "triton")
BUNDLED = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[4] / "shared" / "parity"

Parity = Callable[[str], tuple[Any, dict[str, Tensor]]]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Force each back end in turn."""
    name: str = request.param
    monkeypatch.setenv("SWATH_KERNELS", name)
    return name


@pytest.fixture
def device(backend: str) -> torch.device:
    """The GPU for Triton where there is one; Triton interprets on the CPU otherwise."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def parity() -> Parity:
    """``parity(op)`` -> what ``<op>.json`` says (None without one) and its tensors.

    Files come from ``SWATH_PARITY_DIR`` or the shared folder; the smaller copies in ``tests/data``
    serve where neither exists.
    """
    folder = Path(os.environ.get("SWATH_PARITY_DIR", SHARED)) / "kernels"
    if not folder.is_dir():
        folder = BUNDLED

    def load(op: str) -> tuple[Any, dict[str, Tensor]]:
        cases = folder / f"{op}.json"
        return (
            json.loads(cases.read_text()) if cases.exists() else None,
            load_file(folder / f"{op}.safetensors"),
        )

    return load
