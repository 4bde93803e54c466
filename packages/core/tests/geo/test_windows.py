import itertools

from hypothesis import given
from hypothesis import strategies as st

from swath.core.geo.windows import starts


@given(st.integers(1, 5000), st.integers(32, 1024), st.integers(1, 1024))
def test_windows_cover_an_axis_and_stay_inside(length: int, size: int, step: int) -> None:
    step = min(step, size)
    found = starts(length, size, step)
    assert found == sorted(set(found))
    assert found[0] == 0
    assert found[-1] == max(0, length - size)
    assert all(b - a <= step for a, b in itertools.pairwise(found))
