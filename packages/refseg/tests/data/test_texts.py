import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swath.core.errors import DataError
from swath.refseg.data.texts import CaptionedImages, CountingQuestions, class_name


def test_captions_and_questions_are_read(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "1.png")
    rows = [
        {"filename": "1.png", "split": s, "sentences": [{"raw": "a ship"}]} for s in ("val", "test")
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"images": rows}))
    data = CaptionedImages(tmp_path / "captions.json", tmp_path)
    assert (len(data), data[0].targets["captions"]) == (1, ["a ship"])
    turns = [{"content": "Count. Tell the number of railway station. Thanks"}, {"content": "3"}]
    entries = [{"images": ["1.png"], "conversations": turns}]
    (tmp_path / "count.json").write_text(json.dumps(entries))
    sample = CountingQuestions(tmp_path / "count.json", tmp_path)[0]
    assert sample.targets == {"name": "trainstation", "count": 3}
    (tmp_path / "count.json").write_text(json.dumps([{"images": ["1.png"]}]))
    with pytest.raises(DataError, match="entry 0 is no counting question"):
        CountingQuestions(tmp_path / "count.json", tmp_path)
    with pytest.raises(DataError, match="has no question of this split"):
        CaptionedImages(tmp_path / "captions.json", tmp_path, "train")
    (tmp_path / "captions.json").write_text("{}")
    with pytest.raises(DataError, match="can't be read as captions"):
        CaptionedImages(tmp_path / "captions.json", tmp_path)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("ship", "ship"),
        ("storage tank", "storagetank"),
        ("expressway toll station", "expressway-toll-station"),
        ("crane", "container-crane"),
    ],
)
def test_names_in_questions(words: str, name: str) -> None:
    assert class_name(words) == name
