import pytest

from swath.core.cli.values import class_names
from swath.core.errors import ConfigError


def test_a_vocabulary_is_read_from_one_text() -> None:
    assert class_names("building, flooded road,tree") == ["building", "flooded road", "tree"]
    assert class_names("plane, aircraft; ship") == ["plane, aircraft", "ship"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no class is named"),
        (" , ", "no class is named"),
        ("ground,,roof", "a name is missing beside a ','"),
        ("plane, aircraft;", "a name is missing beside a ';'"),
    ],
)
def test_a_name_that_is_missing_would_shift_the_others(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        class_names(text)
