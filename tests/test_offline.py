"""The guard of conftest.py: no test reaches another machine."""

import os
import socket
import urllib.request
from typing import Any

import pytest


def test_a_connection_to_another_machine_is_refused_and_noted(
    foreign_connections: list[Any],
) -> None:
    with pytest.raises(OSError, match="the suite is offline"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(OSError, match="the suite is offline"):
        urllib.request.urlopen("http://swath.invalid/model.safetensors", timeout=1)
    with socket.socket() as plain, pytest.raises(OSError, match="the suite is offline"):
        plain.connect_ex(("2001:db8::1", 80))
    assert foreign_connections == [("192.0.2.1", 80), "swath.invalid", ("2001:db8::1", 80)]
    foreign_connections.clear()


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, server.getsockname()[1]), timeout=5) as client:
                assert client.getpeername()[0] == "127.0.0.1"


def test_nothing_is_fetched_unless_a_test_asks() -> None:
    assert os.environ["SWATH_OFFLINE"] == "1"
