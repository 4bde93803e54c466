import json
import re
from pathlib import Path

from swath.core.inference.predictor import Predictor
from swath.pretrain.rs4p.pipeline import prepare
from swath.pretrain.rs4p.recipe import Recipe
from swath.pretrain.rs4p.report import write_report


def test_the_report_shows_counts_classes_and_samples(
    archive: Path, tmp_path: Path, model: Predictor
) -> None:
    (archive / "broken.png").write_bytes(b"rubbish")
    recipe = Recipe(tile=64, min_size=32, min_confident=0.0)
    prepare([archive], tmp_path / "out", model, recipe, workers=0, max_broken=0.5)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<img") == 3 * 11  # image, pseudo-labels and confidence of every sample
    for name in ("dark", "bright", "red", "more/wide.png", "broken.png", "brightness"):
        assert name in page
    assert page.count("<svg") == 2
    assert not re.search(r"(src|href)=.http", page)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    again = write_report(tmp_path / "out", manifest).read_text()
    assert again == page
