"""How Triton kernels multiply matrices: precision, the interpreter's bf16, names of types."""

from typing import Any

import torch

from swath.kernels.backend import interpreting

TYPE_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def dot_options(dtype: torch.dtype) -> dict[str, Any]:
    """The constexprs ``PRECISION`` and ``UPCAST`` that a kernel passes to its ``tl.dot``.

    float32 follows ``torch.set_float32_matmul_precision``: "highest", torch's default, splits each
    number into three of the tensor cores' tf32; the others round to one. The interpreter takes bf16
    for integers unless it is cast up first.
    """
    highest = torch.get_float32_matmul_precision() == "highest"
    return {
        "PRECISION": "tf32x3" if dtype == torch.float32 and highest else "tf32",
        "UPCAST": interpreting() and dtype == torch.bfloat16,
    }
