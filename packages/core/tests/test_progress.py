import pytest

from swath.core import progress
from swath.core.progress import Bar, track


def test_without_a_terminal_there_is_one_line_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(track([1, 2, 3], "counting", unit="tiles")) == [1, 2, 3]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("counting: 3/3 tiles, ")


def test_lines_come_at_intervals_with_figures_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar("training", 100, start=40) as bar:
        for _ in range(30):
            now[0] += 1
            bar.advance(loss=0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 50/100 it, 1 it/s, 50 s left  loss 0.5"
    assert len(lines) == 3


@pytest.mark.parametrize("total", [20, None])
def test_the_last_line_comes_once(
    total: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Bar("reading", total) as bar:
        for _ in range(20):
            now[0] += 1
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1].split("/")[0] for line in lines] == ["10", "20"]


def test_a_status_stands_until_the_next_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("training", 2) as bar:
        bar.advance(loss=1.0)
        bar.status("validating 3/4")
        bar.note("a [line] that stays")
    assert capsys.readouterr().err.splitlines()[0] == "a [line] that stays"


def test_nothing_is_shown_when_switched_off(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("quiet", None, enabled=False) as bar:
        bar.advance(5)
        bar.note("nothing")
    assert bar.done == 5
    assert capsys.readouterr().err == ""
