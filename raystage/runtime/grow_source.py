"""What `raystage grow` starts from: a folder's model by its headers, and its tensors when they are asked for."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from raystage.growth.errors import GrowthError
from raystage.growth.optimizer_state import meanings
from raystage.growth.tensors import OptimizerState
from raystage.models.family import Family, families
from raystage.models.spec import ModelSpec
from raystage.models.stored_names import HEAD, named_as_model
from raystage.training.checkpoint import MANIFEST_FILE, CheckpointStore, Stored, damaged_files
from raystage.training.checkpoint_files import OptimizerHeaders, load_states, open_optimizer, split_key
from raystage.training.errors import CheckpointError
from raystage.training.manifest import Manifest, read_manifest
from raystage.training.tensor_pieces import Header, read_tensors
from raystage.training.weight_files import has_weights, read_headers

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Source:
    """A model on disk. `names`: parameter names by stored names; `dtype`: of its weights, the widest where they differ;
    `manifest`, `optimizer`: of a raystage checkpoint."""

    folder: Path
    config: PretrainedConfig
    family: Family
    spec: ModelSpec
    headers: dict[str, Header]
    names: dict[str, str]
    dtype: torch.dtype
    manifest: Manifest | None
    optimizer: OptimizerHeaders | None

    def parameters(self) -> dict[str, Tensor]:
        """All parameters as stored. Raises CheckpointError where a tied head differs from the embedding."""
        tensors = read_tensors(self.headers, self.names)
        if self.spec.tied and HEAD in self.headers:
            head = read_tensors(self.headers, [HEAD])[HEAD]
            embedding_name = self.family.axes(self.spec).embedding
            embedding = next(tensors[stored] for stored, name in self.names.items() if name == embedding_name)
            if not torch.equal(head, embedding):
                raise CheckpointError(
                    f"{self.folder}: {HEAD} differs from the embedding that config.json ties it to; "
                    "set tie_word_embeddings to false there if the head is one of its own"
                )
        return {self.names[stored]: tensor for stored, tensor in tensors.items()}

    def states(self) -> dict[str, OptimizerState]:
        """The optimizer's state by parameter."""
        return load_states(self.optimizer) if self.optimizer is not None else {}


def open_source(path: Path, keep_optimizer: bool, verify: bool) -> Source:
    """The model in a run folder (its newest good checkpoint), a checkpoint or a Hugging Face folder, checked by headers alone.

    `verify`: a checkpoint's checksums too, which reads all of it. Raises CheckpointError, GrowthError.
    """
    folder = _find(path, verify)
    manifest = _read_manifest(folder, verify)
    config, family = _read_config(folder)
    try:
        spec = manifest.spec if manifest else family.read(config)
        expected = {name: tuple(p.shape) for name, p in family.build_empty(config).named_parameters()}
    except ValueError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    except (KeyError, IndexError, TypeError, ZeroDivisionError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}/config.json: no {config.model_type} can be built of it ({type(error).__name__}: {error})"
        ) from None
    headers = read_headers(folder)
    names = named_as_model(headers, family.axes(spec), spec.tied)
    _check_tensors(folder, expected, {names[stored]: headers[stored] for stored in names})
    optimizer = None
    if manifest and keep_optimizer:
        optimizer = _check_optimizer(folder, open_optimizer(folder), expected)
    return Source(folder, config, family, spec, headers, names, _widest(headers[stored] for stored in names), manifest, optimizer)


def _find(path: Path, verify: bool) -> Path:
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder; give a run folder, a checkpoint or a Hugging Face folder")
    store = CheckpointStore(path)
    if has_weights(path) or not store.folder.is_dir():
        return path
    stored = store.latest_good() if verify else next(iter(store.all()[::-1]), None)
    if stored is None:
        raise CheckpointError(f"{path}: no usable checkpoint yet; 'raystage runs' lists runs")
    return stored.folder


def _read_manifest(folder: Path, verify: bool) -> Manifest | None:
    if not (folder / MANIFEST_FILE).is_file():
        return None
    manifest = read_manifest(folder / MANIFEST_FILE)
    if verify and (damaged := damaged_files(Stored(folder, manifest))):
        raise CheckpointError(f"{folder}: damaged ({', '.join(damaged)}: another checksum); take another checkpoint of the run")
    return manifest


def _read_config(folder: Path) -> tuple[PretrainedConfig, Family]:
    path = folder / "config.json"
    try:
        tree: dict[str, Any] = json.loads(path.read_text())
        kind, quantized = tree.get("model_type"), tree.get("quantization_config")
    except (OSError, ValueError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "not a JSON mapping"
        raise CheckpointError(f"{path}: cannot be read ({reason}); a model needs its config.json") from None
    if kind not in families():
        raise CheckpointError(f"{path}: model_type {kind!r}: growth knows {', '.join(families())}")
    if quantized:
        raise CheckpointError(f"{path}: quantized weights cannot be grown; use the model as it was before quantization")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False), families()[kind]  # nosec B615  # a folder
    except (StrictDataclassError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: not a {kind} configuration ({' '.join(str(error).split())})") from None


def _check_tensors(folder: Path, expected: dict[str, tuple[int, ...]], found: dict[str, Header]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise CheckpointError(f"{folder}: lacks {missing[0]}{_and_more(missing)}, which its config.json asks for; copy the model again")
    if extra:
        raise CheckpointError(f"{folder}: holds {extra[0]}{_and_more(extra)}, which its config.json knows nothing of; growth would lose it")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise CheckpointError(f"{folder}: {name} has shape {found[name].shape}, its config.json says {shape}")
        if found[name].dtype not in DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
            raise CheckpointError(f"{folder}: {name} is stored as {found[name].dtype}; growth takes {known}; use the unquantized model")


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _widest(headers: Iterable[Header]) -> torch.dtype:
    widest, *others = {DTYPES[header.dtype] for header in headers}
    for dtype in others:
        widest = torch.promote_types(widest, dtype)
    return widest


def _check_optimizer(folder: Path, optimizer: OptimizerHeaders, shapes: dict[str, tuple[int, ...]]) -> OptimizerHeaders:
    known = meanings(optimizer.kind)
    for key, header in optimizer.fields.items():
        field, name = split_key(key)
        if field not in known:
            raise GrowthError(
                f"optimizer {optimizer.kind}: what its {field} means is unknown, so it cannot grow; growth.optimizer=reset drops it"
            )
        if name not in shapes or (known[field] in ("linear", "square") and header.shape != shapes[name]):
            raise CheckpointError(f"{folder}: {key} of shape {header.shape} belongs to no parameter; growth.optimizer=reset drops it")
    return optimizer
