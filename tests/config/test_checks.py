"""Rules between keys: each one's refusal, and the nearest setting that passes."""

from typing import Any

import pytest

from raystage.config import Config, from_tree
from raystage.config.checks import change_counts
from tests.config.refusal import message_of

WIDE = ["model.d_model=128", "model.n_head=4"]
DEEP_AND_WIDE = ["pacing.depths=[2, 4]", *WIDE, "pacing.widths=[64, 128]"]
TABLE = ["pacing.rule=table", "pacing.lengths=[64, 256]"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # sources
        (["data.sources=[{kind: text}]"], "data.sources.0.path=null: kind text needs a file or glob"),
        (["data.sources=[{kind: stdlib}, {kind: jsonl}]"], "data.sources.1.path=null: kind jsonl needs a file or glob"),
        (["data.sources=[{kind: text, path: ''}]"], "data.sources.0.path='': kind text needs a file or glob"),
        (["data.sources=[{kind: text, path: a, name: b}]"], "data.sources.0.name='b': only kind dataset has one"),
        (["data.sources=[{path: a.txt}]"], "data.sources.0.kind=stdlib: takes no path and no name; set kind to text, jsonl or dataset"),
        (["data.sources=[{kind: dataset}]"], "data.sources.0: kind dataset needs either name (hub) or path (local folder)"),
        (["data.sources=[{kind: dataset, name: a, path: b}]"], "data.sources.0: kind dataset needs either"),
        (["data.validation_sources=[{kind: text}]"], "data.validation_sources.0.path=null: kind text needs"),
        # tokenizer
        (["data.tokenizer.kind=file"], "data.tokenizer.path=null: kind file needs it"),
        (["data.tokenizer.kind=hub"], "data.tokenizer.name=null: kind hub needs it"),
        (["data.tokenizer.path=t.json"], "data.tokenizer.kind=train: takes no path and no name; set kind to file or hub"),
        (["model.vocab_size=4095"], "model.vocab_size=4095: below data.tokenizer.vocab_size=4096; raise it or leave it null"),
        # evaluation beside training
        (["evaluation.beside_training=true", "runtime.engine=local"], "evaluation.beside_training=true: needs runtime.engine=ray"),
        (["evaluation.beside_training=true", "storage=s3://a/b"], "evaluation.beside_training=true: needs a folder that all nodes share"),
        (
            ["evaluation.beside_training=true", "evaluation.validation=false"],
            "evaluation.beside_training=true: nothing to measure; set evaluation.validation",
        ),
        (["evaluation.beside_training=true", "evaluation.stride_tokens=9999"], "evaluation.stride_tokens=9999: above model.context_length"),
        # model
        (["model.n_head=5"], "model.n_head=5: must divide model.d_model=128; 4 does"),
        (["model.n_head=256"], "model.n_head=256: must divide model.d_model=128; 128 does"),
        (["model.d_model=1000000", "model.n_head=7"], "model.n_head=7: must divide model.d_model=1000000; 8 does"),
        # paths to the target
        (["pacing.lengths=[]"], "pacing.lengths=[]: must be given in rising order, each once"),
        (["pacing.lengths=[128, 64, 256]"], "pacing.lengths=[128, 64, 256]: must be given in rising order, each once"),
        (["pacing.lengths=[64, 64, 256]"], "pacing.lengths=[64, 64, 256]: must be given in rising order, each once"),
        (["pacing.lengths=[64, 512]"], "pacing.lengths=[64, 512]: 512 is above model.context_length=256"),
        (["pacing.lengths=[64, 128]"], "pacing.lengths=[64, 128]: must end at model.context_length=256"),
        (["pacing.depths=[2, 8]"], "pacing.depths=[2, 8]: 8 is above model.n_layer=4"),
        (["pacing.depths=[1, 2]"], "pacing.depths=[1, 2]: must end at model.n_layer=4"),
        (["pacing.widths=[64, 256]"], "pacing.widths=[64, 256]: 256 is above model.d_model=128"),
        (
            [*WIDE, "pacing.widths=[16, 128]"],
            "pacing.widths=[16, 128]: 16 has no whole share of model.n_head=4; multiples of 32 do",
        ),
        (
            [*WIDE, "model.family=llama", "model.n_kv_head=2", "pacing.widths=[32, 128]"],
            "pacing.widths=[32, 128]: 32 has no whole share of model.n_kv_head=2; multiples of 64 do",
        ),
        (
            [*WIDE, "model.d_ff=290", "pacing.widths=[32, 96, 128]"],
            "pacing.widths=[32, 96, 128]: 32 has no whole share of model.d_ff=290",
        ),
        # families
        (["model.n_kv_head=2"], "model.n_kv_head=2: gpt2 has none of its own; leave it null"),
        (["model.head_dim=64"], "model.head_dim=64: gpt2 has none of its own; leave it null"),
        (["model.family=llama", "model.n_kv_head=3"], "model.n_kv_head=3: must divide model.n_head=4; 2 does"),
        (["model.family=llama", "model.head_dim=7"], "model.head_dim=7: rotary positions need an even number of channels a head"),
        # growth
        (
            ["growth.new_layers=copy", "pacing.depths=[0, 4]"],
            "growth.new_layers=copy: the first of pacing.depths has no layer to copy; use fresh or identity",
        ),
        (
            ["growth.peak_lrs=[0.01, 0.002]", "pacing.depths=[1, 4]"],
            "growth.peak_lrs=[0.01, 0.002]: needs 2 rates, one a model size, the last training.optimizer.lr=0.001",
        ),
        (
            ["growth.peak_lrs=[0.001]", *WIDE, "pacing.depths=[1, 4]", "pacing.widths=[64, 128]", "pacing.order=[both]"],
            "growth.peak_lrs=[0.001]: needs 2 rates",
        ),
        (
            ["pacing.depths=[1, 4]", "pacing.order=[both]"],
            "pacing.order=['both']: the lists ask for 1 x depth, 0 x width (both",
        ),
        # order and table
        (
            ["pacing.lengths=[64, 256]", "pacing.order=[depth]"],
            "pacing.order=['depth']: the lists ask for 1 x length, 0 x depth",
        ),
        (["pacing.order=[length]"], "pacing.order=['length']: the lists ask for 0 x length"),
        (["pacing.lengths=[64, 256]", "pacing.order=[]"], "pacing.order=[]: the lists ask for 1 x length"),
        (["pacing.at=[0.5]"], "pacing.at=[0.5]: only pacing.rule=table and discrete use it"),
        (TABLE, "pacing.at=null: rule table needs 1 rising shares, one a change"),
        ([*TABLE, "pacing.at=[0.2, 0.5]"], "pacing.at=[0.2, 0.5]: rule table needs 1 rising shares"),
        ([*TABLE, "pacing.depths=[2, 4]", "pacing.at=[0.5, 0.2]"], "pacing.at=[0.5, 0.2]: rule table needs 2 rising shares"),
        # training
        (
            ["training.duration=3 epochs"],
            "training.duration='3 epochs': must be a positive number and 'steps', 'tokens', 'flops' or 'hours'",
        ),
        (["training.duration=1e999 steps"], "training.duration='1e999 steps': must be a positive number"),
        (["training.duration=1.5 steps"], "training.duration='1.5 steps': must be a whole number of steps"),
        (["training.batch_tokens=1000"], "training.batch_tokens=1000: must be a multiple of model.context_length=256, like 1024"),
        (["training.batch_tokens=8"], "training.batch_tokens=8: must be a multiple of model.context_length=256, like 256"),
        (["training.bucket_mib=5", "training.strategy=fsdp"], "training.bucket_mib=5.0: is for ddp"),
        (["training.bucket_mib=5", "runtime.device=xla"], "training.bucket_mib=5.0: is for ddp"),
        (["training.reduce_precision=bf16", "runtime.device=xla"], "training.reduce_precision=bf16: with runtime.device=xla"),
        (["training.micro_batch_tokens=null", "runtime.device=xla"], "training.micro_batch_tokens=null: memory is not predicted for"),
        (
            ["training.activation_checkpointing=auto", "training.strategy=fsdp"],
            "training.activation_checkpointing=auto: is for ddp; use full",
        ),
        (["training.activation_checkpointing=full", "runtime.device=xla"], "training.activation_checkpointing=full: not with runtime."),
        (["runtime.memory_gib=2"], "runtime.memory_gib=2.0: training leaves nothing to it; set training.micro_batch_tokens=null or"),
        (["training.micro_batch_tokens=128"], "training.micro_batch_tokens=128: below one row, model.context_length=256"),
        # rules for the length
        (["pacing.rule=constant", "pacing.lengths=[64, 256]"], "pacing.rule=constant: nothing changes, so pacing.lengths must be null"),
        (["pacing.rule=linear"], "pacing.lengths=null: pacing.rule=linear needs at least two lengths"),
        (["pacing.rule=two_stage", "pacing.lengths=[64, 128, 256]"], "pacing.lengths=[64, 128, 256]: pacing.rule=two_stage needs two"),
        (["pacing.warmup.step_tokens=8"], "pacing.warmup.step_tokens=8: only pacing.rule=linear and root use it"),
        (["pacing.rule=discrete", "pacing.lengths=[64, 256]"], "pacing.at=null: rule discrete needs 1 rising shares"),
        # orders
        (["pacing.rule=table", "pacing.order=free", "pacing.at=[0.5]"], "pacing.order=free: pacing.rule=table needs the order"),
        (["pacing.lengths=[64, 256]", "pacing.order=[length+length]"], "pacing.order=['length+length']: one entry names a kind twice"),
        (["pacing.batches=[100, 8192]"], "pacing.batches=[100, 8192]: 100 is no multiple of model.context_length=256"),
        (["pacing.batches=[256, 4096]"], "pacing.batches=[256, 4096]: must end at training.batch_tokens=8192"),
        (["pacing.order=free", "growth.peak_lrs=[1e-3]"], "growth.peak_lrs: the sizes have no order of their own"),
        # slope
        (["pacing.thresholds.stop=-0.05", "training.schedule.kind=cosine"], "training.schedule.kind=cosine: its rate always moves"),
        (["pacing.lengths=[64, 256]", "training.schedule.kind=cosine"], "training.schedule.kind=cosine: its rate always moves"),
        (["pacing.depths=[2, 4]", "training.schedule.kind=linear"], "training.schedule.kind=linear: its rate always moves"),
        (
            ["pacing.lengths=[64, 256]", "pacing.min_dwell_tokens=100", "pacing.max_dwell_tokens=100"],
            "pacing.max_dwell_tokens=100: must be above pacing.min_dwell_tokens=100",
        ),
        # start
        (["init_from.what=state"], "init_from.what=state: needs init_from.path"),
    ],
)
def test_impossible_combinations(overrides: list[str], message: str) -> None:
    assert message_of(from_tree, {}, overrides).startswith(message)


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.sources=[{kind: text, path: a}, {kind: dataset, name: b}, {kind: dataset, path: c}, {kind: stdlib}]"],
        ["data.tokenizer.kind=file", "data.tokenizer.path=t.json"],
        ["data.tokenizer.kind=hub", "data.tokenizer.name=gpt2", "model.vocab_size=100"],
        ["model.vocab_size=4096"],
        ["pacing.lengths=[256]"],
        ["pacing.lengths=[64, 256]", "pacing.depths=[2, 4]", "pacing.order=[depth, length]"],
        [*WIDE, "pacing.widths=[32, 64, 128]"],
        [*TABLE, "pacing.at=[0.25]"],
        [*TABLE, "pacing.at=[0.25]", "training.schedule.kind=cosine"],
        ["training.schedule.kind=cosine"],
        ["pacing.lengths=[64, 256]", "training.schedule.kind=constant", "pacing.min_dwell_tokens=100", "pacing.max_dwell_tokens=101"],
        ["init_from.what=state", "init_from.path=runs/a"],
        ["pacing.rule=linear", "pacing.lengths=[64, 256]", "training.schedule.kind=cosine"],
        ["pacing.order=free", "pacing.lengths=[64, 256]", "pacing.depths=[2, 4]"],
        [
            "pacing.order=[length+batch, both]",
            "pacing.lengths=[64, 256]",
            "pacing.batches=[4096, 8192]",
            "pacing.depths=[2, 4]",
            "pacing.widths=[64, 128]",
        ],
    ],
)
def test_possible_combinations(overrides: list[str]) -> None:
    assert isinstance(from_tree({}, overrides), Config)


@pytest.mark.parametrize(
    ("pacing", "counts"),
    [
        ({}, {"length": 0, "depth": 0, "width": 0, "batch": 0}),
        ({"lengths": [256]}, {"length": 0, "depth": 0, "width": 0, "batch": 0}),
        ({"lengths": [64, 128, 256], "widths": [64, 128]}, {"length": 2, "depth": 0, "width": 1, "batch": 0}),
    ],
)
def test_change_counts(pacing: dict[str, Any], counts: dict[str, int]) -> None:
    assert change_counts(from_tree({"pacing": pacing})) == counts
