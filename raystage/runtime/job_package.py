"""What a job takes along to a cluster: its configuration, and the files of this machine that it names by relative paths."""

import dataclasses
import fnmatch
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from raystage.config import Config, ConfigError, dump
from raystage.config.schema import Tokenizer
from raystage.data.files import matching_files
from raystage.storage.address import is_uri
from raystage.tracking.mlflow_client import tracking_uri

CONFIG_NAME, SEARCH_NAME = "config.yaml", "search.yaml"
_UNPACKED = "working_dir_files"  # in the path of every job's package, whatever it came from
_MOST_BYTES = 200_000_000  # a head node holds packages in memory
_ENDS = "a job's working folder ends with the job"
_SHARED = "give a folder that all nodes share"


@dataclasses.dataclass(frozen=True)
class JobPackage:
    """`texts`: files to write, by name; `files`: files to copy, by their place in the package. `command`: of raystage, on them.

    `left_out`: files that the configuration names and the job will not find.
    """

    command: tuple[str, ...]
    texts: Mapping[str, str]
    files: Mapping[str, Path]
    left_out: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        return sum(len(text.encode()) for text in self.texts.values()) + sum(path.stat().st_size for path in self.files.values())

    def write(self, folder: Path) -> None:
        """Fills an empty folder."""
        for name, text in self.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, path in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, folder / name)


def package_of(
    config: Config, excludes: Sequence[str] = (), search: Path | None = None, overrides: Sequence[str] = (), has_secrets: bool = False
) -> JobPackage:
    """The package of a run; or of a search by its file, with overrides, whose base is `config`.

    `excludes`: patterns of files that are left out, of the run too; `has_secrets`: the job has a file on the nodes, which may name the
    MLflow store. Raises ConfigError for what would be lost with the job, and for more than fits.
    """
    _check_folders(config, _ENDS, search is not None)
    if config.tracking.mlflow_uri or os.environ.get("MLFLOW_TRACKING_URI") or not has_secrets:
        _check_store(config)
    if config.init_from.path is not None and not _is_absolute(config.init_from.path):
        raise ConfigError(f"init_from.path={config.init_from.path}: is relative, and weights are not taken along; {_SHARED}")
    named = dict(_inputs(config))
    left_out = tuple(name for name in named if any(fnmatch.fnmatch(name, pattern) for pattern in excludes))
    files = {name: path for name, path in named.items() if name not in left_out}
    texts = {CONFIG_NAME: dump(config)}
    command: tuple[str, ...] = ("train", CONFIG_NAME)
    if search is not None:
        texts[SEARCH_NAME] = search.read_text(encoding="utf-8")
        command = ("tune", SEARCH_NAME, *overrides, f"base={CONFIG_NAME}")
    package = JobPackage(command, texts, files, left_out)
    if package.n_bytes > _MOST_BYTES:
        largest = max(files, key=lambda name: files[name].stat().st_size)
        raise ConfigError(
            f"{largest} and others: {package.n_bytes / 1e6:.0f} MB to take along, at most {_MOST_BYTES / 1e6:.0f}; "
            "put them where all nodes see them and name them by absolute paths"
        )
    return package


def check_place_in_package(config: Config, folder: Path) -> None:
    """For a run whose working folder is a job's unpacked package. Raises ConfigError for what would end with it."""
    if _UNPACKED in folder.parts:
        _check_folders(config, _ENDS)
        _check_store(config)


def check_places_of_nodes(config: Config, hosts: Collection[str]) -> None:
    """For a run on a cluster of these machines. Raises ConfigError for folders that the others would look for in vain."""
    if len(hosts) > 1:
        _check_folders(config, f"the cluster has {len(hosts)} machines ({', '.join(sorted(hosts)[:3])}{', ...' * (len(hosts) > 3)})")


def _check_folders(config: Config, why: str, is_search: bool = False) -> None:
    for key, place in (("storage", config.storage), ("data.cache_dir", config.data.cache_dir)):
        if not _is_absolute(place):
            takes_uri = key != "storage" or not (is_search or config.training.strategy == "fsdp" or config.evaluation.beside_training)
            raise ConfigError(f"{key}={place}: is relative, and {why}; {_SHARED}{', or a URI like s3://bucket/runs' * takes_uri}")


def _check_store(config: Config) -> None:
    store = tracking_uri(config.tracking)
    if config.tracking.mlflow and (store.startswith("sqlite:///") or not is_uri(store)):
        path = store.removeprefix("sqlite:///")
        if not _is_absolute(path):
            raise ConfigError(
                f"MLflow at {store}: is relative, and {_ENDS}; "
                "give a server (tracking.mlflow_uri, MLFLOW_TRACKING_URI), or tracking.mlflow=false"
            )


def _inputs(config: Config) -> Iterator[tuple[str, Path]]:
    """Files that the configuration names by relative paths. Raises ConfigError for one that is not there, or outside this folder."""
    data, wanted = config.data, config.evaluation
    patterns: list[str | None] = [source.path for source in (*data.sources, *data.validation_sources) if source.path]
    patterns += [*_tokenizer_files(data.tokenizer), *wanted.texts, wanted.lambada]
    for pattern in patterns:
        if pattern and not _is_absolute(pattern):
            yield from _below_here(pattern)


def _tokenizer_files(tokenizer: Tokenizer) -> list[str]:
    """With the file beside it that names its end of text."""
    if tokenizer.kind != "file" or tokenizer.path is None:
        return []
    beside = Path(tokenizer.path).with_name("tokenizer_config.json")
    return [tokenizer.path, *([beside.as_posix()] if beside.is_file() else [])]


def _below_here(pattern: str) -> Iterator[tuple[str, Path]]:
    path = Path(pattern)
    for file in [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else matching_files(pattern):
        name = file.as_posix()
        if ".." in file.parts:
            raise ConfigError(f"{pattern}: lies outside the working folder and cannot be taken along; give an absolute path on the cluster")
        yield name, file


def _is_absolute(place: str) -> bool:
    return is_uri(place) or Path(place).expanduser().is_absolute()
