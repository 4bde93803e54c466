from collections.abc import Sequence

import pytest

from swath.core.data.scenes import DOMAINS, Scene, render


@pytest.fixture(scope="session")
def scenes() -> Sequence[Scene]:
    """Scenes of every domain that several checks share; nothing may change them."""
    return [render(seed, 192, domain) for domain in DOMAINS for seed in range(5_000, 5_012)]
