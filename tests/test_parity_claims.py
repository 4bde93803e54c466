"""Every recorded fixture belongs to a package that tests it, or to one that is yet to come."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# folders of DESIGN.md section 8 whose packages come with later issues
PACKAGES = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
OWNERS = {
    "kernels": ("kernels",),
    "ovseg": ("ovseg",),
    "refseg": ("refseg",),
    "mtl": ("mtl",),
    "s5": ("core", "pretrain", "moe"),
}


def claims(package: str) -> dict[str, dict[str, list[str]]]:
    path = ROOT / "packages" / package / "tests" / "parity_claims.json"
    return json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture
def parity_dir() -> Path:
    path = Path(os.environ.get("SWATH_PARITY_DIR", ROOT.parent / "shared" / "parity"))
    if not path.is_dir():
        pytest.skip("shared parity folder absent")
    return path


def test_every_s5_fixture_is_claimed_once_its_owners_exist(parity_dir: Path) -> None:
    found = {
        json.loads(path.read_text())["kind"] for path in (parity_dir / "s5").glob("*.json")
    }
    claimed = [kind for package in OWNERS["s5"] for kind in claims(package).get("s5", {}).get("kinds", [])]
    assert len(claimed) == len(set(claimed)), "two packages claim the same kind"
    assert set(claims("core")["s5"]["kinds"]) <= set(claimed)
    if PACKAGES.issuperset(OWNERS["s5"]):
        assert found <= set(claimed), f"claimed by no package: {sorted(found - set(claimed))}"
    else:
        later = set(json.loads((ROOT / "tests/parity_later.json").read_text())["s5"])
        assert found <= set(claimed) | later, f"claimed by nobody: {sorted(found - set(claimed) - later)}"


def test_every_parity_folder_has_an_owner(parity_dir: Path) -> None:
    assert {path.name for path in parity_dir.iterdir() if path.is_dir()} <= set(OWNERS)
