"""The files of cluster/, found by where they lie, so that a new one is tested too."""

import copy
import functools
import lzma
import os
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
# the published CustomResourceDefinitions of KubeRay, rayclusters and rayjobs; RAYSTAGE_CRDS: another folder of them
CRDS = Path(os.environ.get("RAYSTAGE_CRDS", ROOT.parent / "shared" / "schemas"))

Document = dict[str, Any]
RAY_KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs"}


def files(*endings: str) -> list[Path]:
    """Those of cluster/ with one of these endings."""
    return sorted(path for path in CLUSTER.rglob("*") if path.is_file() and path.name.endswith(endings))


def documents(path: Path) -> list[Document]:
    """Of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def kubernetes_documents() -> dict[str, Document]:
    """All Kubernetes objects, by file and name."""
    found = [(path, document) for path in files(".yaml", ".yml") for document in documents(path) if "kind" in document]
    return {f"{path.relative_to(CLUSTER)}:{document['kind']}": document for path, document in found}


def ray_cluster_specs() -> dict[str, Document]:
    """The specification of each Ray cluster on KubeRay, that of a RayJob too."""
    ours = {name: document for name, document in kubernetes_documents().items() if document["kind"] in RAY_KINDS}
    return {name: document["spec"].get("rayClusterSpec", document["spec"]) for name, document in ours.items()}


def ray_up_configs() -> dict[str, Document]:
    """The cluster launcher's files."""
    found = {path.name: documents(path) for path in files(".yaml", ".yml")}
    return {name: parts[0] for name, parts in found.items() if parts and "cluster_name" in parts[0]}


def check_against_crd(document: Document) -> None:
    """Raises jsonschema.ValidationError for what KubeRay's definition does not know, FileNotFoundError where there is no definition."""
    jsonschema.Draft202012Validator(crd_schema(document["kind"], document["apiVersion"].split("/")[1])).validate(document)


@functools.cache
def crd_schema(kind: str, version: str) -> Document:
    """As JSON schema in which unknown keys are errors; Kubernetes itself would drop them without a word."""
    path = CRDS / f"ray.io_{RAY_KINDS[kind]}.crd.yaml.xz"
    definition = yaml.load(lzma.decompress(path.read_bytes()), yaml.CSafeLoader)
    schema = next(entry["schema"]["openAPIV3Schema"] for entry in definition["spec"]["versions"] if entry["name"] == version)
    schema["properties"]["metadata"] = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return closed(schema)


def closed(schema: Document) -> Document:
    """A copy that allows no further keys where it names some, but where it says that it keeps unknown ones."""
    schema = copy.copy(schema)
    if schema.pop("x-kubernetes-int-or-string", False):
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in schema:
        schema["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = closed(schema[key])
    return schema
