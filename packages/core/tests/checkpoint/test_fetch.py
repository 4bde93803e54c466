"""Fetching from a stand-in server on this machine: whole, broken off, wrong, absent."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from swath.core.checkpoint.fetch import locate
from swath.core.errors import CheckpointError, MissingDependencyError

CONTENT = bytes(range(256)) * 4096
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `CONTENT`; ``breaks_after`` bytes it hangs up once, and it notes what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks_after: int | None = None
        self.content = CONTENT
        self.ranges: list[str | None] = []

    def url(self, digest: str = DIGEST, name: str = "model.safetensors") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}#sha256={digest}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path == "/absent.pth":
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        body = self.server.content[start:]
        if asked and not body:
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        limit, self.server.breaks_after = self.server.breaks_after, None
        self.wfile.write(body[:limit])

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SWATH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SWATH_OFFLINE", raising=False)
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def files(tmp_path: Path) -> list[str]:
    found = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.suffix != ".lock")


def test_a_file_is_fetched_once_and_found_again_without_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = locate(server.url())
    assert first.read_bytes() == CONTENT
    assert files(tmp_path) == [f"{DIGEST[:16]}-model.safetensors"]
    monkeypatch.setenv("SWATH_OFFLINE", "1")
    assert locate(server.url()) == first
    assert server.ranges == [None]


def test_several_who_want_a_file_at_once_fetch_it_once(server: Server) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(locate, [server.url()] * 4))
    assert {path.read_bytes() for path in found} == {CONTENT}
    assert server.ranges == [None]


@pytest.mark.parametrize("kept", [1, 300_000, len(CONTENT) - 1])
def test_a_broken_off_download_goes_on_where_it_ended(
    server: Server, tmp_path: Path, kept: int
) -> None:
    server.breaks_after = kept
    with pytest.raises(CheckpointError, match="the same command goes on from there"):
        locate(server.url())
    assert files(tmp_path) == [f".{DIGEST[:16]}-model.safetensors.part"]
    assert locate(server.url()).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"]


def test_a_file_with_another_hash_is_deleted(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"\0"
    with pytest.raises(CheckpointError, match="was altered on the way or at its source"):
        locate(server.url())
    assert files(tmp_path) == []


def test_a_partial_file_of_another_version_does_not_survive(server: Server, tmp_path: Path) -> None:
    partial = tmp_path / "cache" / "weights" / f".{DIGEST[:16]}-model.safetensors.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * len(CONTENT))
    with pytest.raises(CheckpointError, match="SHA-256"):
        locate(server.url())
    assert locate(server.url()).read_bytes() == CONTENT


def test_what_the_server_does_not_have_is_said(server: Server) -> None:
    with pytest.raises(CheckpointError, match="the server says 404"):
        locate(server.url(name="absent.pth"))


def test_no_server_is_an_error_of_one_line(server: Server) -> None:
    with pytest.raises(CheckpointError, match="can't be fetched") as caught:
        locate(f"http://127.0.0.1:1/model.pth#sha256={DIGEST}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fragment", ["", "#sha256=abc", "#md5=" + "0" * 64])
def test_an_address_without_a_hash_is_refused(server: Server, fragment: str) -> None:
    with pytest.raises(CheckpointError, match="need a known hash"):
        locate(server.url().partition("#")[0] + fragment)
    assert server.ranges == []


def test_offline_nothing_is_fetched_and_the_place_for_the_file_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWATH_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="SWATH_OFFLINE") as caught:
        locate(server.url())
    assert server.ranges == []
    place = Path(str(caught.value).rpartition("put the file at ")[2])
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(CONTENT)
    assert locate(server.url()) == place


def test_a_local_path_is_left_alone(tmp_path: Path) -> None:
    assert locate(tmp_path / "model.pth") == tmp_path / "model.pth"
    assert locate("model.pth") == Path("model.pth")


class Hub:
    """What of huggingface-hub is used, over one repository in a folder."""

    def __init__(self, folder: Path, files: list[str]) -> None:
        self.folder, self.files = folder, files
        self.asked: list[tuple[str, str, str | None, bool]] = []

    def list_repo_files(self, repo: str, revision: str | None = None) -> list[str]:
        return self.files

    def hf_hub_download(
        self, repo: str, name: str, revision: str | None = None, local_files_only: bool = False
    ) -> str:
        self.asked.append((repo, name, revision, local_files_only))
        if name not in self.files:
            raise LookupError(f"404 Client Error\n\nEntry Not Found for {name}")
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path, ["README.md", "config.json", "checkpoint.pth"])
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", hub)
    monkeypatch.delenv("SWATH_OFFLINE", raising=False)
    return hub


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [
        ("hf://owner/repo", "checkpoint.pth", None),
        ("hf://owner/repo@v1.0", "checkpoint.pth", "v1.0"),
        ("hf://owner/repo/config.json", "config.json", None),
        ("hf://owner/repo@abc123/checkpoint.pth", "checkpoint.pth", "abc123"),
    ],
)
def test_the_hub_is_asked_for_the_file_or_the_only_weights(
    hub: Hub, tmp_path: Path, source: str, name: str, revision: str | None
) -> None:
    assert locate(source) == tmp_path / name
    assert hub.asked == [("owner/repo", name, revision, False)]


def test_several_weights_files_on_the_hub_want_a_choice(hub: Hub) -> None:
    hub.files.append("other.pth")
    with pytest.raises(CheckpointError, match=r"name one, e\.g\. hf://owner/repo/checkpoint\.pth"):
        locate("hf://owner/repo")


def test_safetensors_on_the_hub_come_before_pickles(hub: Hub, tmp_path: Path) -> None:
    hub.files.append("model.safetensors")
    assert locate("hf://owner/repo") == tmp_path / "model.safetensors"


def test_what_the_hub_says_becomes_one_line(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="can't be had from the Hub") as caught:
        locate("hf://owner/repo/absent.pth")
    assert "\n" not in str(caught.value)


def test_a_malformed_hub_source_shows_the_form(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="expected hf://OWNER/REPO"):
        locate("hf://owner")


def test_without_the_hubs_package_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"swath-core\[hub\]"):
        locate("hf://owner/repo")


def test_variables_in_a_path_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS_FOLDER", str(tmp_path))
    assert locate("$WEIGHTS_FOLDER/b.pth") == tmp_path / "b.pth"
    monkeypatch.delenv("WEIGHTS_FOLDER")
    with pytest.raises(CheckpointError, match="set that environment variable"):
        locate("$WEIGHTS_FOLDER/b.pth")
