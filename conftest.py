"""For all suites: no network, no unagreed skip, the same numbers in each run, Triton on CPUs."""

import ipaddress
import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import settings

settings.register_profile("swath", derandomize=True)  # the same examples every time
settings.load_profile("swath")

if not torch.cuda.is_available():
    # Triton reads this when it is first imported, which any test module may cause
    os.environ.setdefault("TRITON_INTERPRET", "1")

# for this process and those that tests start; a test of fetching, from this machine, takes it back
os.environ["SWATH_OFFLINE"] = "1"

ALLOWED_SKIPS = (
    "shared parity folder absent",
    "shared samples folder absent",
    "needs a CUDA device",
)

_unexpected: list[str] = []


class ForeignConnectionError(OSError):
    """A test has tried to reach another machine."""


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_here(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host in ("", "localhost", socket.gethostname())
    return address.is_loopback or address.is_unspecified


@pytest.fixture(autouse=True, scope="session")
def _foreign_connections() -> Iterator[list[Any]]:
    """Refuses what leaves this machine, and notes it: the code under test may swallow the error."""
    tried: list[Any] = []

    def refuse(place: Any) -> None:
        tried.append(place)
        raise ForeignConnectionError(f"the suite is offline, and a test tries to reach {place}")

    def guarded(connect: Any) -> Any:
        def guarded_connect(self: socket.socket, address: Any) -> Any:
            if isinstance(address, tuple) and not _is_here(address[0]):  # else a path, AF_UNIX
                refuse(address)
            return connect(self, address)

        return guarded_connect

    look_up = socket.getaddrinfo

    def guarded_look_up(host: Any, *rest: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host or ""
        if not _is_here(name) and _address(name) is None:
            refuse(name)
        return look_up(host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", guarded_look_up)
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        yield tried


@pytest.fixture(autouse=True)
def foreign_connections(_foreign_connections: list[Any]) -> Iterator[list[Any]]:
    """Addresses outside this machine that the test has tried to reach; it fails if any is left."""
    _foreign_connections.clear()
    yield _foreign_connections
    assert not _foreign_connections, f"tried to reach {_foreign_connections}"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """A test and the fixtures it is the first to need draw the same numbers in every run."""
    random.seed(0)
    torch.manual_seed(0)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(allowed in reason for allowed in ALLOWED_SKIPS):
            _unexpected.append(f"{report.nodeid}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _unexpected:
        terminalreporter.write_line(f"skip outside the allow list of conftest.py: {line}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexpected and os.environ.get("CI"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
