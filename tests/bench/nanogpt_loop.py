"""nanoGPT's model and loop, written anew in its shape: the operations of its model.py and train.py, in their order."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.bench.arm import Pause
from tests.bench.peer_size import PeerSize

_LOG_EVERY = 10


class Block(nn.Module):
    """Attention and feed-forward layer, each behind a LayerNorm."""

    def __init__(self, size: PeerSize) -> None:
        super().__init__()
        self.n_head = size.n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(size.d_model), nn.LayerNorm(size.d_model)
        self.c_attn, self.c_proj = nn.Linear(size.d_model, 3 * size.d_model), nn.Linear(size.d_model, size.d_model)
        self.c_fc, self.mlp_proj = nn.Linear(size.d_model, 4 * size.d_model), nn.Linear(4 * size.d_model, size.d_model)

    def forward(self, x_BLD: Tensor) -> Tensor:
        B, L, D = x_BLD.shape
        q, k, v = (part.view(B, L, self.n_head, D // self.n_head).transpose(1, 2) for part in self.c_attn(self.ln_1(x_BLD)).split(D, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x_BLD = x_BLD + self.c_proj(y.transpose(1, 2).contiguous().view(B, L, D))
        return x_BLD + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x_BLD))))


class NanoGpt(nn.Module):
    """GPT-2 with a tied head."""

    def __init__(self, size: PeerSize) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(size.vocab_size, size.d_model), nn.Embedding(size.length, size.d_model)
        self.h = nn.ModuleList(Block(size) for _ in range(size.n_layer))
        self.ln_f = nn.LayerNorm(size.d_model)
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02 / (math.sqrt(2 * size.n_layer) if name.endswith("proj.weight") else 1))

    def forward(self, inputs_BL: Tensor, targets_BL: Tensor) -> Tensor:
        x_BLD = self.wte(inputs_BL) + self.wpe(torch.arange(inputs_BL.shape[1], device=inputs_BL.device))
        for block in self.h:
            x_BLD = block(x_BLD)
        logits_BLV = F.linear(self.ln_f(x_BLD), self.wte.weight)
        return F.cross_entropy(logits_BLV.view(-1, logits_BLV.size(-1)), targets_BL.view(-1), ignore_index=-1)


def train(size: PeerSize, tokens: Path, compile_: bool, block_steps: int, pause: Pause) -> None:
    """For ever: a rate for the step, forward, the next batch, backward, clipping, fused AdamW; the loss is read every 10 steps."""
    torch.backends.cuda.matmul.allow_tf32 = True
    model = NanoGpt(size).to(size.device)
    decayed, others = [p for p in model.parameters() if p.dim() >= 2], [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
    step_model = torch.compile(model) if compile_ else model
    inputs, targets = _batch(size, tokens)
    step = 0
    while True:
        for group in optimizer.param_groups:
            group["lr"] = 6e-4 * min(1.0, (step + 1) / 100)
        with torch.autocast(size.device, torch.bfloat16, enabled=size.precision == "bf16"):
            loss = step_model(inputs, targets)
        inputs, targets = _batch(size, tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % _LOG_EVERY == 0:
            loss.item()
        step += 1
        if step % block_steps == 0:
            pause()


def _batch(size: PeerSize, tokens: Path) -> tuple[Tensor, Tensor]:
    data = np.memmap(tokens, dtype=np.uint16, mode="r")
    starts = torch.randint(len(data) - size.length, (size.rows,)).tolist()
    rows = [torch.from_numpy(data[i : i + size.length + 1].astype(np.int64)) for i in starts]
    inputs, targets = torch.stack([row[:-1] for row in rows]), torch.stack([row[1:] for row in rows])
    if size.device == "cpu":
        return inputs, targets
    return inputs.pin_memory().to(size.device, non_blocking=True), targets.pin_memory().to(size.device, non_blocking=True)
