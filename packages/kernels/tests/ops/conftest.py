"""Guards around the results of an operator."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

MARGIN = 64
CANARY = 77


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Surround all that ``Tensor.new_empty`` gives with canaries; calling this looks at them."""
    buffers: list[tuple[Tensor, int]] = []

    plain = Tensor.new_empty

    def new_empty(
        self: Tensor, *size: Any, dtype: torch.dtype | None = None, **others: Any
    ) -> Tensor:
        if others:  # the interpreter's own
            return plain(self, *size, dtype=dtype, **others)
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        count = math.prod(shape)
        buffer = torch.full(
            (count + 2 * MARGIN,), CANARY, dtype=dtype or self.dtype, device=self.device
        )
        buffers.append((buffer, count))
        return buffer[MARGIN : MARGIN + count].view(shape)

    monkeypatch.setattr(Tensor, "new_empty", new_empty)

    def check() -> None:
        assert buffers
        for buffer, count in buffers:
            assert (buffer[:MARGIN] == CANARY).all()
            assert (buffer[MARGIN + count :] == CANARY).all()

    return check
