"""Every configuration key: its type, unit, default and bounds. Nothing here reads a file or checks two keys together."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from raystage.config.evaluation import Evaluation
from raystage.config.fields import DURATION, STRICT, Fraction, Length, Positive, Size
from raystage.config.names import NAME
from raystage.config.pacing import Pacing


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Source:
    kind: Literal["stdlib", "text", "jsonl", "dataset"] = Field(
        default="stdlib", description="stdlib: the Python library's own sources; text, jsonl: files; dataset: Hugging Face datasets"
    )
    path: str | None = Field(default=None, description="file, glob (plain, .gz, .xz, .zst) or local dataset folder")
    name: str | None = Field(default=None, description="hub name of a dataset, instead of path")
    subset: str | None = Field(default=None, description="configuration of the dataset on the hub")
    revision: str | None = Field(default=None, description="branch, tag or commit of the dataset on the hub; null: its newest")
    split: str = Field(default="train", description="split of the dataset")
    text_key: str = Field(default="text", description="field that holds the text (jsonl, dataset)")
    streaming: bool = Field(default=False, description="read a hub dataset as a stream instead of downloading it whole")
    max_documents: Positive | None = Field(default=None, description="[documents] stop after so many; null: all")
    weight: float = Field(default=1.0, gt=0, description="share of the mixture's tokens, relative to the other sources")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tokenizer:
    kind: Literal["train", "file", "hub"] = Field(
        default="train", description="train: a byte-level BPE fitted on the source; file: a tokenizer.json; hub: a hub name"
    )
    vocab_size: int = Field(default=4096, ge=257, description="[entries] of a trained tokenizer, end-of-text included")
    train_bytes: Positive = Field(default=20_000_000, description="[bytes] of text that a trained tokenizer is fitted on")
    path: str | None = Field(default=None, description="tokenizer.json, or a folder that holds one (kind: file)")
    name: str | None = Field(default=None, description="hub name (kind: hub)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Data:
    sources: tuple[Source, ...] = Field(
        default=(Source(),), min_length=1, description="where documents come from; several are mixed by weight"
    )
    validation_sources: tuple[Source, ...] = Field(
        default=(), description="validation text of its own; empty: held out by hash of the document"
    )
    validation_fraction: Fraction = Field(default=0.01, description="share of documents held out when there are no validation_sources")
    tokenizer: Tokenizer = Field(default=Tokenizer(), description="how text becomes tokens")
    attend_across_documents: bool = Field(default=True, description="false: attention stops at document borders inside a packed row")
    processes: int = Field(default=0, ge=0, description="[threads] that tokenize in the driver; 0: one a core. Not of a cluster's tasks")
    cache_dir: str = Field(
        default=".raystage/data", min_length=1, description="folder of prepared corpora, keyed by content; or a URI, like s3://bucket/data"
    )
    node_cache_dir: str = Field(
        default="~/.cache/raystage/data", min_length=1, description="folder on every node for its copy, where cache_dir is a URI"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Model:
    family: Literal["gpt2", "llama", "qwen3"] = Field(default="gpt2", description="model family: a transformers class and its axes")
    context_length: Length = Field(default=256, description="[tokens] full context of the target")
    vocab_size: Positive | None = Field(default=None, description="[entries] null: the tokenizer's, rounded up to a multiple of 64")
    n_layer: Size = Field(default=4, description="[layers] of the target")
    d_model: Size = Field(default=128, description="[channels] of the target")
    n_head: Size = Field(default=4, description="[heads] of the target's queries")
    n_kv_head: Size | None = Field(default=None, description="[heads] of its keys and values (llama, qwen3); null: n_head")
    head_dim: Size | None = Field(
        default=None, description="[channels] of a head, the same at every size (llama, qwen3); null: d_model / n_head"
    )
    d_ff: Size | None = Field(
        default=None, description="[units] of the target's feed-forward layer; null: 4 d_model (gpt2), 8/3 d_model up to 64s (llama, qwen3)"
    )
    tie_embeddings: bool = Field(default=True, description="the head is the token embedding")
    rope_theta: float = Field(default=10000.0, gt=1, description="base of the rotary positions (llama, qwen3)")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="probability, everywhere in the model (llama, qwen3: in attention)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GrowthMethod:
    placement: Literal["stack", "interleave"] = Field(
        default="stack", description="new layers on top of the old ones, or each behind the layer it comes from"
    )
    new_layers: Literal["identity", "copy", "fresh"] = Field(
        default="identity",
        description="identity: copies, switched off by zero output projections; copy: the loss moves; fresh: initial values, switched off",
    )
    symmetry: Literal["noise", "none"] = Field(
        default="noise", description="break the symmetry of copied channels with noise that cancels; none: for tests"
    )
    noise_scale: float | None = Field(
        default=None, gt=0, description="standard deviation of that noise, relative to the weights; null: 2, in half precision 0.5"
    )
    rho_depth: float = Field(default=0.70, gt=0, le=1, description="share of the tokens seen that count after depth x2 (Shen et al. 2022)")
    rho_width: float = Field(default=0.55, gt=0, le=1, description="share of the tokens seen that count after width x2 (Shen et al. 2022)")
    rho_both: float = Field(default=0.40, gt=0, le=1, description="share of the tokens seen that count after both x2 (Shen et al. 2022)")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Growth(GrowthMethod):
    rewarm_steps: int = Field(default=200, ge=0, description="[steps] of learning-rate warmup after a growth")
    peak_lrs: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None,
        description="peak learning rate of each model size in order, the last training.optimizer.lr; null: that one at every size",
    )
    probe_rows: Positive = Field(default=8, description="[rows] of the fixed probe that every growth is checked on")
    probe_tolerance: float = Field(default=1e-5, gt=0, description="relative change of the probe loss above which a growth is refused")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Optimizer:
    kind: Literal["adamw", "sgd", "adafactor"] = Field(
        default="adamw", description="sgd: with momentum; adafactor: second moments as row and column means, next to no memory"
    )
    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(default=0.1, ge=0, description="on matrices only; decoupled but for sgd")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the first moment (adamw), momentum (sgd)")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="decay of the second moment (adamw)")
    eps: float = Field(default=1e-8, gt=0, description="added to the denominator (adamw)")
    clip_norm: float | None = Field(
        default=1.0, gt=0, description="global gradient norm above which gradients are scaled down; null: never"
    )
    clip_ratio: float | None = Field(
        default=None,
        gt=0,
        description="the norm of a unit's gradient over that of its weights above which it is scaled down, before clip_norm "
        "(AGC, 2102.06171, with 0.01); a unit is an output of a matrix; null: never",
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Schedule:
    kind: Literal["wsd", "cosine", "linear", "constant"] = Field(default="wsd", description="shape of the learning rate over the duration")
    warmup_steps: int = Field(default=50, ge=0, description="[steps] of linear warmup")
    floor_fraction: float = Field(default=0.1, ge=0, le=1, description="final learning rate as a share of the peak (wsd, cosine, linear)")
    decay_fraction: float = Field(default=0.2, gt=0, le=1, description="last share of the duration over which wsd decays, linearly")
    cosine_until: float = Field(
        default=0.9, gt=0, le=1, description="share of the duration at which the cosine reaches its floor; flat after"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Training:
    duration: str = Field(default="2e6 tokens", description="budget of the run", json_schema_extra={"allowed": DURATION})
    stop_at: str | None = Field(
        default=None,
        description="where the run stops with a checkpoint, its schedules still those of the duration; a larger one goes on; null: at the "
        "end of the duration",
        json_schema_extra={"allowed": f"{DURATION}, or null"},
    )
    batch_tokens: Positive = Field(default=8192, description="[tokens] of one step over all workers, at the full context length")
    batch_rule: Literal["tokens", "sequences"] = Field(default="tokens", description="what stays constant when the length changes")
    batch_lr: Literal["constant", "sqrt"] = Field(
        default="constant", description="sqrt: with a smaller batch the rate falls by the root of its share of batch_tokens"
    )
    micro_batch_tokens: Positive | None = Field(
        default=16384,
        description="[tokens] of one forward and backward on one worker; null: as memory allows, chosen at each start (not on xla)",
    )
    preflight: bool = Field(
        default=True,
        description="run the first and the largest stage once before step 1; out of memory then halves micro_batch_tokens (not with fsdp)",
    )
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="ddp: every worker holds the whole model; fsdp: model and optimizer are sharded over the workers (FSDP2)",
    )
    precision: Literal["float32", "bf16"] = Field(
        default="float32", description="bf16: autocast where the device has it; weights stay float32"
    )
    reduce_precision: Literal["float32", "bf16"] = Field(
        default="float32",
        description="of gradients that travel between workers; bf16: half as many bytes, and sums as coarse as that (not on xla)",
    )
    bucket_mib: float | None = Field(
        default=None, gt=0, description="[MiB] of gradients that travel together, while others are computed (ddp, not on xla); null: 25"
    )
    compile: bool = Field(default=False, description="torch.compile the model's blocks")
    activation_checkpointing: Literal["none", "full", "auto"] = Field(
        default="none",
        description="blocks that compute activations once more and keep none: no block; all; auto: as few as memory asks for (ddp)",
    )
    optimizer: Optimizer = Field(default=Optimizer(), description="how gradients become steps")
    schedule: Schedule = Field(default=Schedule(), description="learning rate")

    @property
    def is_fitted(self) -> bool:
        """Whether something of it is chosen by memory."""
        return self.micro_batch_tokens is None or self.activation_checkpointing == "auto"

    @property
    def micro_batch(self) -> int:
        """[tokens] micro_batch_tokens, where it has been chosen by now."""
        assert self.micro_batch_tokens is not None
        return self.micro_batch_tokens


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Validation:
    every_steps: Positive = Field(default=100, description="[steps] between validations; one more at the end of every stage")
    rows: Positive = Field(default=64, description="[rows] of held-out text, at the full context length")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Checkpoint:
    every_steps: Positive = Field(default=200, description="[steps] between checkpoints; one more around every change of stage")
    every_minutes: float | None = Field(
        default=10.0, gt=0, description="[minutes] between checkpoints, whichever comes first; null: steps alone"
    )
    keep_last: Positive = Field(default=2, description="[checkpoints] latest ones kept")
    keep_best: int = Field(default=1, ge=0, description="[checkpoints] best ones by validation loss kept beside them")
    storage_retry_minutes: float = Field(
        default=30.0, gt=0, description="[minutes] that storage may be full or away before the run stops; training goes on meanwhile"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InitFrom:
    path: str | None = Field(default=None, description="a run folder, a raystage checkpoint or a Hugging Face folder; null: from scratch")
    what: Literal["weights", "state"] = Field(default="weights", description="weights alone, or optimizer, counters and data position too")


_WORKERS = "a whole number at least 1, or {min: 1, max: 4}"


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WorkerRange:
    min: Positive = Field(description="[workers] below which training waits")
    max: Positive = Field(description="[workers] that it takes at the most")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tpu:
    topology: str = Field(min_length=1, description="of a slice, in chips: 4x4")
    accelerator_type: str = Field(min_length=1, description="as Ray calls it: TPU-V5E, TPU-V6E, ...")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Runtime:
    engine: Literal["ray", "local"] = Field(default="ray", description="ray: Ray Train workers; local: this process, or torchrun's")
    workers: Positive | WorkerRange = Field(
        default=1,
        description="[workers] of Ray Train, or how few and how many as nodes come and go; with local, torchrun decides",
        json_schema_extra={"allowed": _WORKERS},
    )
    stage_workers: tuple[Positive | WorkerRange, ...] | None = Field(
        default=None,
        description="[workers] of each stage in turn, the last entry for all that follow, like [1, 1, {min: 2, max: 8}]; null: workers",
        json_schema_extra={"allowed": f"null or a list, each entry {_WORKERS}"},
    )
    device: Literal["auto", "cpu", "cuda", "xla"] = Field(
        default="auto", description="auto: cuda where there is one; xla: what PJRT_DEVICE names, all devices of a host for one worker"
    )
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="[GiB] of a worker that a step may take, where training leaves a choice to it; null: what is free, less a tenth",
    )
    tpu: Tpu | None = Field(
        default=None,
        description="slice of TPUs whose hosts the workers are (device xla); null: one host",
        json_schema_extra={"allowed": "null or {topology: 4x4, accelerator_type: TPU-V6E}"},
    )
    compile_cache: str | None = Field(
        default="~/.cache/raystage/xla",
        description="folder on every node for XLA's compiled programs, for later starts; null: none",
    )
    deterministic: bool = Field(default=False, description="the same bits each time on a GPU too, where faster algorithms are not")
    threads_per_worker: Positive | None = Field(default=None, description="[threads] of a CPU worker; null: the machine's cores shared out")
    address: str | None = Field(default=None, description="of a Ray cluster; null: RAY_ADDRESS, else one started for this run")
    max_failures: int = Field(default=3, ge=0, description="[restarts] after failures in a row without a new step, before the run fails")
    resize_check_s: float = Field(default=10.0, gt=0, description="[s] between looks at the cluster for more workers, or nodes that leave")
    stall_minutes: float = Field(default=15.0, gt=0, description="[minutes] without a step after which the workers count as frozen")
    spare_after_s: float | None = Field(
        default=60.0,
        ge=0,
        description="[s] of training after which nodes keep a spare process for each CPU worker, for quick restarts; null: none",
    )
    profile_steps: int = Field(default=0, ge=0, description="[steps] of each stage that rank 0 profiles, into profile/ of the run folder")
    decision_timeout_s: float = Field(default=5.0, gt=0, description="[s] to wait for the controller actor before rank 0 decides by itself")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Tracking:
    mlflow: bool = Field(default=True, description="record the run in MLflow")
    mlflow_uri: str | None = Field(
        default=None, description="tracking server; null: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder"
    )
    experiment: str = Field(default="raystage", min_length=1, description="MLflow experiment")
    log_model: bool = Field(default=True, description="leave the trained model in MLflow, for mlflow.pyfunc and mlflow models serve")
    register_as: str | None = Field(
        default=None,
        min_length=1,
        max_length=100,
        pattern=NAME,
        description="name in MLflow's model registry that the trained model becomes a version of; null: none",
    )
    system_every_s: float | None = Field(
        default=10.0, gt=0, description="[s] between samples of processor, memory, disk, network and GPU of rank 0's machine; null: none"
    )


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Sample:
    lines: int = Field(default=0, ge=0, description="[lines] of text generated at the end of the run; 0: none")
    temperature: float = Field(default=0.7, ge=0, description="0: greedy")
    top_k: int = Field(default=50, ge=0, description="[entries] sampled from; 0: all")


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    name: str = Field(
        default="run",
        min_length=1,
        max_length=100,
        pattern=NAME,
        description="of the run; the same name again resumes it",
    )
    storage: str = Field(
        default="runs", min_length=1, description="folder of run folders, shared by all nodes; or a URI of fsspec, like s3://bucket/runs"
    )
    storage_cache: str = Field(
        default="~/.cache/raystage/runs", min_length=1, description="folder on every node to work in, where storage is a URI"
    )
    seed: int = Field(default=1234, ge=0, lt=2**31, description="of initial values, data order, growth and dropout")
    data: Data = Field(default=Data(), description="text and tokens")
    model: Model = Field(default=Model(), description="the target model; pacing says from which smaller one it grows")
    pacing: Pacing = Field(default=Pacing(), description="when a stage ends and what comes next")
    growth: Growth = Field(default=Growth(), description="how a model grows")
    training: Training = Field(default=Training(), description="batch, duration, optimizer, learning rate")
    validation: Validation = Field(default=Validation(), description="loss on held-out text")
    evaluation: Evaluation = Field(default=Evaluation(), description="what is measured of checkpoints beside training")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="what is kept on disk")
    init_from: InitFrom = Field(default=InitFrom(), description="weights or state to start from")
    runtime: Runtime = Field(default=Runtime(), description="where it runs")
    tracking: Tracking = Field(default=Tracking(), description="MLflow")
    sample: Sample = Field(default=Sample(), description="text written at the end")
