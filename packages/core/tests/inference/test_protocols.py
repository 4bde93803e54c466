import pytest
import torch
from torch import nn

from swath.core.errors import ConfigError
from swath.core.inference.protocols import EvaluationMode


@pytest.fixture
def per_pixel() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize(
    ("side", "official", "sane"),
    [
        (1024, [0, 256, 512, 512, 512], [0, 256, 512]),
        (600, [0, 88, 88], [0, 88]),
        (512, [0, 0, 0], [0]),
        (300, [0, 0], [0]),
    ],
)
def test_window_starts(side: int, official: list[int], sane: list[int]) -> None:
    assert EvaluationMode("slide").starts(side) == sane
    assert EvaluationMode("slide", repeat_clamped_windows=True).starts(side) == official


def test_windows_cover_the_border_whatever_the_step() -> None:
    assert EvaluationMode("slide", size=10, step=9).starts(24) == [0, 9, 14]
    assert EvaluationMode("slide", size=10, step=10).starts(30)[-1] == 20


def test_official_windows_leave_gaps_where_the_step_does() -> None:
    assert EvaluationMode("slide", size=8, step=20).starts(50) == [0, 20, 40, 42]
    official = EvaluationMode("slide", size=8, step=20, repeat_clamped_windows=True)
    assert official.starts(50) == [0, 20, 40]


@pytest.mark.parametrize("flip", [False, True])
def test_sliding_a_per_pixel_model_gives_the_whole_image(per_pixel: nn.Module, flip: bool) -> None:
    image = torch.randn(2, 3, 37, 50)
    whole = EvaluationMode(flip=flip)(per_pixel, image)
    slid = EvaluationMode("slide", size=16, step=11, flip=flip)(per_pixel, image)
    torch.testing.assert_close(slid, whole)
    torch.testing.assert_close(whole.sum(1), torch.ones(2, 37, 50))


def test_official_windows_weigh_the_clamped_one_more(per_pixel: nn.Module) -> None:
    image = torch.randn(1, 3, 16, 16)
    mode = EvaluationMode("slide", size=8, step=4, repeat_clamped_windows=True)
    total = mode(per_pixel, image).detach()
    assert float(total.sum(1)[0, 0, 0]) == pytest.approx(1)
    assert float(total.sum(1)[0, -1, -1]) == pytest.approx(9)  # three times along each axis


def test_sum_of_logits_has_the_argmax_of_the_logits(per_pixel: nn.Module) -> None:
    image = torch.randn(1, 3, 20, 20)
    scores = EvaluationMode("slide", size=12, step=8, sum_logits=True)(per_pixel, image)
    assert scores.argmax(1).equal(per_pixel(image).argmax(1))


def test_resizing_returns_to_the_size_of_the_image(per_pixel: nn.Module) -> None:
    assert EvaluationMode("resize", size=8)(per_pixel, torch.randn(1, 3, 5, 19)).shape[-2:] == (
        5,
        19,
    )


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole, resize or slide"):
        EvaluationMode("crop")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="step=0"):
        EvaluationMode("slide", step=0)
