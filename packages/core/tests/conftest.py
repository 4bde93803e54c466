"""Where the tests find the recorded tensors and the real samples."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _shared(variable: str, folder: str) -> Path | None:
    path = Path(os.environ.get(variable, ROOT.parent / "shared" / folder))
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def parity_dir() -> Path:
    """Tensors recorded from the official implementations."""
    path = _shared("SWATH_PARITY_DIR", "parity")
    if path is None:
        pytest.skip("shared parity folder absent")
    return path


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    """Real imagery with labels."""
    path = _shared("SWATH_SAMPLES_DIR", "samples")
    if path is None:
        pytest.skip("shared samples folder absent")
    return path
