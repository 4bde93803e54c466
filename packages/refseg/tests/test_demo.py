import json
from pathlib import Path

from swath.refseg.demo import run


def test_the_demo_leaves_a_model_its_figures_and_a_report(tmp_path: Path) -> None:
    files = run(tmp_path / "demo", quick=True, device="cpu")
    assert "oIoU" in json.loads(files.metrics.read_text())
    assert (files.run / "best.safetensors").exists()
    report = files.report.read_text()
    for text in (
        "What a sentence means",
        "4 images",  # it was judged on
        "Kinds of sentences",
        "swath configs remotesam_swinb_270k",
    ):
        assert text in report
