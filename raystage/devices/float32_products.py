"""Float32 products on a CPU, by the quicker of the two libraries that torch brings.

MKL is torch's choice. On AMD's processors it keeps to AVX2, and oneDNN is twice as fast by the AVX-512 that those have since Zen 4. torch
hands float32 products to oneDNN where it may round their factors to bf16 ("medium"): oneDNN does so with Intel's AMX alone, and a product
whose factors need their bits tells. Of attention's small products, oneDNN has to set up each.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raystage.devices.processor import processor

_BY_MKL, _BY_ONEDNN = "highest", "medium"
_chosen = _BY_MKL  # of this process; torch's own setting may be left by a backward pass that failed halfway


def choose_quick_products() -> None:
    """For this process from now on: oneDNN's on AMD's processors with AVX-512, where they keep all bits."""
    global _chosen
    if processor("vendor_id") != "AuthenticAMD" or "avx512f" not in (processor("flags") or "").split():
        return
    torch.set_float32_matmul_precision(_BY_ONEDNN)
    _chosen = _BY_ONEDNN if _keeps_all_bits() else _BY_MKL
    torch.set_float32_matmul_precision(_chosen)


def small_products(run: Callable[[], Tensor], of: Tensor) -> Tensor:
    """What `run` gives, by MKL on every processor; its backward pass too, which ends where the gradient by `of` is known."""
    if _chosen == _BY_MKL or of.device.type != "cpu":
        return run()
    torch.set_float32_matmul_precision(_BY_MKL)
    try:
        result = run()
    finally:
        torch.set_float32_matmul_precision(_chosen)
    if result.requires_grad and of.requires_grad:
        result.register_hook(lambda _: torch.set_float32_matmul_precision(_BY_MKL))
        of.register_hook(lambda _: torch.set_float32_matmul_precision(_chosen))
    return result


def _keeps_all_bits() -> bool:
    """Whether one times a number is that number: these need 24 bits, float32's; bf16 has 8."""
    numbers = 1 + torch.arange(128 * 128, dtype=torch.float32).view(128, 128) * 511 / 2**23
    return torch.equal(torch.eye(128) @ numbers, numbers)
