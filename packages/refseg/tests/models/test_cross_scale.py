import torch

from swath.refseg.models.cross_scale import CrossScaleInteraction


def test_several_layers_keep_the_maps_shapes() -> None:
    model = CrossScaleInteraction((4, 8, 16), grid=4, num_layers=2).eval()
    maps = [torch.randn(2, 4, 16, 12), torch.randn(2, 8, 8, 6), torch.randn(2, 16, 4, 4)]
    with torch.no_grad():
        related = model(maps)
    assert len(model.block) == 2
    assert [x.shape for x in related] == [x.shape for x in maps]
