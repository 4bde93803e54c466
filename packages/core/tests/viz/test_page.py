import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swath.core.errors import DataError
from swath.core.palette import default_palette
from swath.core.viz import page

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def test_a_page_is_whole_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    body = page.picture(PHOTO, alt="photo") + page.layers(
        PHOTO, np.zeros((40, 60)), default_palette(2), caption="scene"
    )
    path = page.write_report(
        tmp_path / "r.html", title="Run", sections=[page.Section("Pictures", body)]
    )
    text = path.read_text(encoding="utf-8")
    assert text.endswith("</html>\n")
    assert "http" not in text.replace("http://www.w3.org", "")
    assert "<script" not in text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("classes", [1, 3, 20, 255])
def test_a_class_map_shows_each_colour_and_leaves_the_rest_clear(classes: int) -> None:
    palette = default_palette(classes)
    mask = np.array([*range(classes), 255])[None]
    html = page.mask_picture(mask, palette, alt="classes", side=256)
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    shown = np.asarray(Image.open(BytesIO(data)).convert("RGBA"))[0]
    assert shown[:-1, :3].tolist() == [list(colour) for colour in palette]
    assert shown[:, 3].tolist() == [255] * classes + [0]


def test_what_people_write_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    path = page.write_report(
        tmp_path / "r.html",
        title=evil,
        figures={evil: evil},
        sections=[
            page.Section(evil, page.facts({evil: evil})),
            page.Section("t", page.class_table([evil], {evil: [evil]})),
            page.Section("c", page.folded(evil, evil) + page.commands({evil: evil})),
        ],
    )
    assert "<script" not in path.read_text(encoding="utf-8")


def test_a_page_that_is_too_large_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    huge = page.Section("data", "x" * page.MAX_BYTES)
    with pytest.raises(DataError, match=r"5\.0 MB, more than 5 MB"):
        page.write_report(tmp_path / "r.html", title="Run", sections=[huge])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.5, "0.500"),
        (1.0, "1.000"),
        (0, "0"),
        (1234567, "1\u2009234\u2009567"),
        (1234.56, "1\u2009234.6"),
    ],
)
def test_numbers_read_well(value: float | None, shown: str) -> None:
    assert page.number(value) == shown


def test_bars_follow_their_column_and_absent_values_have_none() -> None:
    table = page.class_table(["a", "b"], {"IoU": [0.25, None], "F1": [0.4, None]}, bar="IoU")
    assert table.count("--share") == 2
    assert "--share:25.0%" in table
    assert "--share:0.0%" in table


def test_a_table_says_what_its_rows_are() -> None:
    columns = {"IoU": [0.5]}
    assert "<th>class</th><th>IoU</th>" in page.class_table(["a"], columns)
    assert "<th>kind</th><th>IoU</th>" in page.class_table(["a"], columns, of="kind")


def test_pictures_are_made_smaller_than_their_limit() -> None:
    large = np.zeros((3000, 2000, 3), dtype=np.uint8)
    assert len(page.picture(large, alt="", side=200)) < 5000
