"""Every recorded fixture of S5 belongs to a package that tests it, or to one that is yet to come.

A package claims kinds of fixtures in ``tests/parity_claims.json``; its own tests then fail for a
tensor that nobody reads. `parity_later.json` names the kinds of packages that don't exist yet, and
an entry there is stale as soon as its package does.
"""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
LATER: dict[str, list[str]] = json.loads((ROOT / "tests/parity_later.json").read_text())


def claimed_kinds() -> list[str]:
    files = ROOT.glob("packages/*/tests/parity_claims.json")
    return [
        kind
        for path in files
        for kind in json.loads(path.read_text()).get("s5", {}).get("kinds", ())
    ]


@pytest.fixture
def parity_dir() -> Path:
    path = Path(os.environ.get("SWATH_PARITY_DIR", ROOT.parent / "shared" / "parity"))
    if not path.is_dir():
        pytest.skip("shared parity folder absent")
    return path


def test_every_kind_has_exactly_one_owner(parity_dir: Path) -> None:
    found = {json.loads(path.read_text())["kind"] for path in (parity_dir / "s5").glob("*.json")}
    owned = claimed_kinds() + [kind for kinds in LATER.values() for kind in kinds]
    assert len(owned) == len(set(owned)), "claimed twice"
    assert found <= set(owned), f"claimed by nobody: {sorted(found - set(owned))}"


def test_nothing_waits_for_a_package_that_exists() -> None:
    assert not PACKAGES & set(LATER)
