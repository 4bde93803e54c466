import json
from collections.abc import Callable

from swath.core.config import TrainConfig

Swath = Callable[..., tuple[int, str, str]]


def test_all_configs_are_listed_with_their_first_line(swath: Swath) -> None:
    code, out, _ = swath("configs", "--json")
    assert code == 0
    assert "scenes" in json.loads(out)["scenes_tiny"]
    assert "scenes_tiny" in swath("configs")[1]


def test_one_config_shows_how_to_run_it(swath: Swath) -> None:
    _, out, _ = swath("configs", "scenes_tiny")
    assert all(word in out for word in ("Run:", "Source:", "Expect:"))


def test_one_config_as_data_is_a_config(swath: Swath) -> None:
    _, out, _ = swath("configs", "scenes-tiny", "--json")
    assert TrainConfig.from_data(json.loads(out)).iterations > 0
