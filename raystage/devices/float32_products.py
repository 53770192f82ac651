"""Float32 products on a CPU, by the quicker of the two libraries that torch brings.

MKL is torch's choice. On AMD's processors it keeps to AVX2, and oneDNN, which takes the AVX-512 that they have, is twice as fast. torch
hands float32 products to oneDNN where it may round their factors to bf16 ("medium"): oneDNN does so with Intel's AMX alone, and a product
whose factors need their bits tells. Of attention's small products, oneDNN has to set up each.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from raystage.devices.processor import processor

_BY_MKL, _BY_ONEDNN = "highest", "medium"


def choose_quick_products() -> None:
    """For this process from now on: oneDNN's on AMD's processors, where they keep all bits."""
    if processor("vendor_id") != "AuthenticAMD":
        return
    torch.set_float32_matmul_precision(_BY_ONEDNN)
    if not _keeps_all_bits():
        torch.set_float32_matmul_precision(_BY_MKL)


def small_products(run: Callable[[], Tensor], of: Tensor) -> Tensor:
    """What `run` gives, by MKL on every processor; its backward pass too, which ends where the gradient by `of` is known. A compiled model
    has one library for all its products."""
    usual = torch.get_float32_matmul_precision()
    if usual != _BY_ONEDNN or of.device.type != "cpu" or torch.compiler.is_compiling():
        return run()
    torch.set_float32_matmul_precision(_BY_MKL)
    try:
        result = run()
    finally:
        torch.set_float32_matmul_precision(usual)
    if result.requires_grad and of.requires_grad:
        result.register_hook(lambda _: torch.set_float32_matmul_precision(_BY_MKL))
        of.register_hook(lambda _: torch.set_float32_matmul_precision(usual))
    return result


def _keeps_all_bits() -> bool:
    """Whether one times a number is that number: bf16 has 8 of float32's 24 bits."""
    numbers = 1 + torch.arange(128 * 128, dtype=torch.float32).view(128, 128) / 2**14
    return torch.equal(torch.eye(128) @ numbers, numbers)
