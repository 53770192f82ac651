"""What devices promise, as far as it can be seen without them."""

import pytest
import torch

from raystage.devices.device import pick_device


def test_xla_says_what_to_install_where_it_is_missing() -> None:
    with pytest.raises(ValueError, match=r"runtime\.device=xla: torch_xla is not installed here; .*pip install '\.\[xla\]'"):
        pick_device("xla")


def test_cuda_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"runtime\.device=cuda: torch sees no CUDA device here"):
        pick_device("cuda")
