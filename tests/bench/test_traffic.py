"""The count of bytes that operations move."""

import torch

from tests.bench.traffic import Traffic


def test_a_copy_reads_and_writes_each_byte_once_and_a_view_none() -> None:
    tensor = torch.zeros(10, 20)
    with Traffic() as traffic:
        tensor.T[3:].clone()
    assert (traffic.read_bytes, traffic.written_bytes) == (680, 680)


def test_writing_in_place_reads_only_what_it_needs() -> None:
    target, source = torch.zeros(10), torch.ones(10)
    with Traffic() as traffic:
        target[:5].copy_(source[:5])
    assert (traffic.read_bytes, traffic.written_bytes) == (20, 20)
    with Traffic() as traffic:
        target.add_(source)
    assert (traffic.read_bytes, traffic.written_bytes) == (80, 40)
