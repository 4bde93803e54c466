"""Weights from elsewhere: a local file, the Hugging Face Hub, or an address with a known hash.

==========================================  ======================================================
source                                      what happens
==========================================  ======================================================
``weights.pth``                             the file itself
``hf://OWNER/REPO[@REVISION][/FILE]``       ``huggingface-hub`` fetches it into its own cache
``https://HOST/FILE#sha256=HEX``            fetched once into our cache and checked against the hash
==========================================  ======================================================

Our cache is ``$SWATH_CACHE``, by default ``swath`` in the user's cache folder. With
``SWATH_OFFLINE=1`` nothing is fetched: what isn't in a cache is an error that says how to get it.
"""

import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag, urlparse

from filelock import FileLock

from swath.core.errors import CheckpointError, MissingDependencyError
from swath.core.files import sha256
from swath.core.progress import Bar

_CHUNK = 1 << 20
_TIMEOUT_S = 30
_HUB = re.compile(
    r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+?))?(?:/(?P<file>[^@]+))?"
)
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".pkl")
"""Suffixes of files that hold weights."""


def locate(source: str | Path) -> Path:
    """A local file with what a source names; fetched if need be.

    Args:
        source: See the module.

    Returns:
        A file on this machine. A local path comes back with ``~`` and ``$VARIABLES`` filled in,
        there or not.

    Raises:
        CheckpointError: If it can't be fetched or mustn't be, or isn't what its hash says.
        MissingDependencyError: If the Hub's package isn't installed.
    """
    text = str(source)
    if text.startswith("hf://"):
        return _from_hub(text)
    if text.startswith(("https://", "http://")):
        return _from_address(text)
    local = os.path.expandvars(os.path.expanduser(text))
    if "$" in local:
        raise CheckpointError(f"{text}: set that environment variable or give the path itself")
    return Path(local)


def is_remote(source: str | Path) -> bool:
    """Whether `locate` may have to fetch it."""
    return str(source).startswith(("hf://", "https://", "http://"))


def offline() -> bool:
    """Whether ``SWATH_OFFLINE`` forbids fetching."""
    return os.environ.get("SWATH_OFFLINE", "0") not in ("", "0")


def cache_folder() -> Path:
    """Where fetched files are kept."""
    if "SWATH_CACHE" in os.environ:
        return Path(os.environ["SWATH_CACHE"]).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "swath"


# --- addresses ---------------------------------------------------------------------------------


def _from_address(text: str) -> Path:
    address, fragment = urldefrag(text)
    found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if found is None:
        raise CheckpointError(
            f"{address}: weights from the network need a known hash; append #sha256= and its 64 "
            "hex digits, or fetch the file yourself and give its path"
        )
    expected = found[1].lower()
    name = Path(urlparse(address).path).name or "weights"
    final = cache_folder() / "weights" / f"{expected[:16]}-{name}"
    if final.exists():
        return final
    if offline():
        raise CheckpointError(
            f"{address}: not in the cache, and SWATH_OFFLINE forbids fetching it; put the file at "
            f"{final}"
        )
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(final.with_name(f".{final.name}.lock")):
        if not final.exists():  # another process may have fetched it meanwhile
            _fetch(address, expected, final)
    return final


def _fetch(address: str, expected: str, final: Path) -> None:
    partial = final.with_name(f".{final.name}.part")
    _download(address, partial)
    actual = sha256(partial)
    if actual != expected:
        partial.unlink()
        raise CheckpointError(
            f"{address}: the file's SHA-256 is {actual}, not {expected}; it was altered on the way "
            "or at its source, and is deleted"
        )
    partial.replace(final)


def _download(address: str, partial: Path) -> None:
    """Fetch a file, going on where an earlier attempt broke off."""
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            resumed = answer.status == 206
            done = done if resumed else 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            with (
                partial.open("ab" if resumed else "wb") as file,
                Bar(f"fetching {Path(urlparse(address).path).name}", total, "B", start=done) as bar,
            ):
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    bar.advance(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing: the earlier attempt had all of it
            return
        raise CheckpointError(f"{address}: the server says {error.code} {error.reason}") from error
    except OSError as error:  # also URLError, broken connections and time-outs
        raise CheckpointError(
            f"{address}: can't be fetched ({error}); {done:,} bytes are kept, the same command "
            "goes on from there"
        ) from error
    if total is not None and done < total:
        raise CheckpointError(
            f"{address}: the connection ended after {done:,} of {total:,} bytes; the same command "
            "goes on from there"
        )


# --- the Hub -----------------------------------------------------------------------------------


def _from_hub(text: str) -> Path:
    found = _HUB.fullmatch(text)
    if found is None:
        raise CheckpointError(f"{text}: expected hf://OWNER/REPO[@REVISION][/FILE]")
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise MissingDependencyError(
            f"{text} needs the package huggingface-hub: pip install 'swath-core[hub]'"
        ) from error
    repo, revision, file = found["repo"], found["revision"], found["file"]
    try:
        name = file or _only_weights(hub, repo, revision, text)
        return Path(hub.hf_hub_download(repo, name, revision=revision, local_files_only=offline()))
    except CheckpointError:
        raise
    except Exception as error:  # the Hub's package has many kinds, and its HTTP library's beside
        reason = " ".join(str(error).split())[:200]
        hint = "; SWATH_OFFLINE forbids fetching it" if offline() else ""
        raise CheckpointError(f"{text}: can't be had from the Hub ({reason}){hint}") from error


def _only_weights(hub: Any, repo: str, revision: str | None, text: str) -> str:
    """The one weights file of a repository; safetensors before pickles."""
    if offline():
        cached = Path(hub.snapshot_download(repo, revision=revision, local_files_only=True))
        names = [str(path.relative_to(cached)) for path in cached.rglob("*") if path.is_file()]
    else:
        names = hub.list_repo_files(repo, revision=revision)
    for suffix in WEIGHTS:
        fitting = sorted(name for name in names if name.endswith(suffix))
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise CheckpointError(
                f"{text}: holds several weights files; name one, e.g. {text}/{fitting[0]}"
            )
    raise CheckpointError(f"{text}: holds no weights file ({', '.join(WEIGHTS)})")
