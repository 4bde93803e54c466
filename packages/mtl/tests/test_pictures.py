import numpy as np
import torch

from swath.core.config import TrainConfig
from swath.mtl.pictures import attention_figure, attention_points, feature_figure


def test_attention_points_start_on_the_rings_that_the_layer_is_initialised_with(
    tiny: TrainConfig,
) -> None:
    model = tiny.model.build().eval()
    image = torch.randn(3, 64, 64)
    for head, stride_8 in (("det", 0), ("seg", 3)):
        points = attention_points(model, image, (0.3, 0.6), head)
        assert np.abs(points.token - [0.3, 0.6]).max() <= 0.5 / 8  # 8 x 8 cells
        np.testing.assert_allclose(points.weights, 1 / 16, rtol=1e-5)  # 4 levels of 4 points
        assert len(points.places) == 4 * 16
        # on a ring of 1 to 4 cells of its level around the token
        own = points.levels == stride_8
        distance = np.abs((points.places - points.token)[own] * 8).max(1)
        np.testing.assert_allclose(sorted(distance), np.repeat([1, 2, 3, 4], 4), atol=1e-4)
    picture = np.zeros((64, 64, 3), np.uint8)
    axes = attention_figure(picture, points).axes[0]
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 63.5), (63.5, -0.5))
    assert len(feature_figure(model, image, channels=2).axes) == 4 * 3
