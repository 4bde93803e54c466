"""For all suites: an unagreed skip fails CI, and Triton interprets where there is no GPU."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("swath", derandomize=True)  # the same examples every time
settings.load_profile("swath")

if not torch.cuda.is_available():
    # Triton reads this when it is first imported, which any test module may cause
    os.environ.setdefault("TRITON_INTERPRET", "1")

ALLOWED_SKIPS = (
    "shared parity folder absent",
    "shared samples folder absent",
    "needs a CUDA device",
)

_unexpected: list[str] = []


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
