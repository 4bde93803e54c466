import torch

from swath.mtl.balance import without_conflicts


def test_pcgrad_leaves_no_conflict_between_two_and_changes_nothing_where_there_is_none() -> None:
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    # each loses its part against the other: (1, 0) + (-1, 1) / 2 -> (0.5, 0.5); (-1, 1) -> (0, 1)
    torch.testing.assert_close(without_conflicts([a, b], [[1], [0]]), torch.tensor([0.5, 1.5]))
    c = torch.tensor([2.0, 1.0])
    torch.testing.assert_close(without_conflicts([a, c], [[1], [0]]), a + c)
