"""How many sequences go through the model at once."""

from raystage.devices.device import Device
from raystage.devices.ranks import Ranks


def sequences_at_once(micro_batch_tokens: int, seq_len_tokens: int, n_sequences: int, device: Device, ranks: Ranks) -> int:
    """As many as the budget [tokens] of a worker holds, of `n_sequences` over all ranks.

    Where each shape is a program to compile, all micro-batches have this size: as many sequences on each device, no more in all than this
    rank's share needs, one on each device apart.
    """
    at_once = max(1, micro_batch_tokens // seq_len_tokens)
    if not device.is_lazy:
        return at_once
    _, n_shares = device.shares(ranks)
    n_mine = -(-n_sequences // n_shares)
    return device.n_devices * max(1, min(at_once * device.n_hosts // device.n_devices, -(-n_mine // device.n_devices)))
