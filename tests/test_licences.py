"""Whoever installs Swath gets nothing whose licence spreads to what they build with it."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = [f"swath-{path.parent.name}" for path in ROOT.glob("packages/*/pyproject.toml")]
ALLOWED = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Zlib|BSL|CC0)\b"
)
# torch's wheels for Linux bring NVIDIA's libraries under NVIDIA's own terms
FOREIGN = re.compile(r"(nvidia-|cuda-toolkit$)")


def needed(names: list[str]) -> dict[str, Distribution]:
    """What these distributions need at run time on this machine, themselves included."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # left out on purpose: opencv-python, for its headless twin
            continue
        for line in found[name].requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def stated(package: Distribution) -> str:
    """What a distribution says of its licence."""
    metadata = package.metadata
    kinds = [c for c in metadata.get_all("Classifier") or () if c.startswith("License")]
    # some put the whole text, which mentions others, into "License"
    return metadata["License-Expression"] or " ".join(kinds) or (metadata["License"] or "")[:80]


def test_licences_at_run_time_are_permissive() -> None:
    packages = needed(MEMBERS)
    assert {"torch", "numpy", "rasterio", "mmengine"} <= packages.keys()
    licences = {n: stated(p) for n, p in packages.items() if not FOREIGN.match(n)}
    assert {n: text for n, text in licences.items() if not ALLOWED.search(text)} == {}
    assert {n: text for n, text in licences.items() if re.search(r"\bA?GPL", text)} == {}
