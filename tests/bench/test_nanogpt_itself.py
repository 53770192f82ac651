"""A copy of nanoGPT runs as the bench wants it: a made one here, of the same files, names and order of calls."""

from pathlib import Path

import numpy as np
import pytest

from tests.bench.nanogpt_itself import train
from tests.bench.peer_size import PeerSize

FILES = {
    "model.py": "WIDTH = 3\n",
    "configurator.py": """
import sys
for word in sys.argv[1:]:
    key, value = word[2:].split("=")
    globals()[key] = type(globals()[key])(value)
""",
    "train.py": """
import os, pickle
import numpy as np, torch
from model import WIDTH
dataset, device, dtype, compile, bias = "", "", "", "", ""
batch_size = gradient_accumulation_steps = block_size = n_layer = n_head = n_embd = warmup_iters = 0
max_iters = eval_interval = eval_iters = log_interval = 0
learning_rate = 0.0
exec(open("configurator.py").read())
data = np.memmap(os.path.join("data", dataset, "train.bin"), dtype=np.uint16, mode="r")
assert pickle.load(open("data/bench/meta.pkl", "rb")) == {"vocab_size": 64}
assert (device, dtype, compile, bias, n_layer, n_embd, block_size, batch_size) == ("cpu", "float32", "False", "True", 2, 16, 8, 4)
weight = torch.nn.Parameter(torch.ones(WIDTH))
optimizer = torch.optim.AdamW([weight], lr=learning_rate)
while True:
    print("a word")
    (weight * float(data[0])).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    assert weight.grad is None
""",
}


class EnoughError(Exception):
    pass


def test_it_trains_on_the_benchs_tokens_and_pauses_behind_each_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    before, n_pauses = Path.cwd(), 0

    def pause() -> None:
        nonlocal n_pauses
        n_pauses += 1
        if n_pauses == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        train(tmp_path, PeerSize("made", 64, 2, 2, 16, 8, 4), tmp_path / "tokens.bin", False, 2, pause)
    assert capsys.readouterr().out == ""
    assert Path.cwd() == before
