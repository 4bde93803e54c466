"""What we use of mmengine, imported without what mmengine only looks for.

It registers an optimiser of transformers if that is installed. Nobody here asks for it by name, and
importing it takes longer than all of mmengine.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """As if a module weren't installed, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # makes an import fail
    try:
        yield
    finally:
        del sys.modules[name]


with _hidden("transformers"):
    from mmengine.dist import get_dist_info
    from mmengine.hooks import Hook
    from mmengine.optim import OptimWrapper
    from mmengine.runner import Runner
    from mmengine.runner.base_loop import BaseLoop

__all__ = ["BaseLoop", "Hook", "OptimWrapper", "Runner", "get_dist_info"]
