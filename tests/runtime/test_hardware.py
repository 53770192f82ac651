"""What workers take of a cluster, by its resources."""

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.train import ScalingConfig

from raystage.config import Config, ConfigError
from raystage.runtime import hardware as hardware_module
from raystage.runtime.capacity import Node
from raystage.runtime.hardware import Hardware, hardware_of
from raystage.runtime.ray_fit import scaling_of
from raystage.runtime.ray_process_group import ProcessGroupConfig, free_address, pjrt_settings
from tests.training.made_run import configure

SLICE = "runtime.tpu={topology: 4x4, accelerator_type: TPU-V6E}"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("PJRT_DEVICE", raising=False)

    def have(**resources: float) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Resources": resources}])

    return have


def config(folder: Path, *overrides: str) -> Config:
    return configure(folder, ["runtime.engine=ray", *overrides])


def test_a_gpu_a_worker_where_there_is_one(tmp_path: Path, cluster: Any) -> None:
    cluster(CPU=8.0, GPU=2.0)
    assert hardware_of(config(tmp_path, "runtime.device=auto")) == Hardware("cuda", {"CPU": 1.0, "GPU": 1.0})
    assert hardware_of(config(tmp_path, "runtime.device=cpu")) == Hardware("cpu", {"CPU": 1.0})
    cluster(CPU=8.0)
    assert hardware_of(config(tmp_path, "runtime.device=auto")) == Hardware("cpu", {"CPU": 1.0})
    with pytest.raises(ConfigError, match="needs a GPU a worker"):
        hardware_of(config(tmp_path, "runtime.device=cuda"))


def test_xla_takes_the_tpus_of_a_host_or_cpus(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(CPU=8.0)
    assert hardware_of(config(tmp_path, "runtime.device=xla")) == Hardware("xla", {"CPU": 1.0})
    cluster(CPU=8.0, TPU=8.0)
    one_host = hardware_of(config(tmp_path, "runtime.device=xla"))
    assert one_host == Hardware("xla", {"CPU": 1.0, "TPU": 8.0})
    assert scaling_of(one_host, 1).num_tpus_per_worker == 8  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"several workers need a slice; give runtime\.tpu="):
        hardware_of(config(tmp_path, "runtime.device=xla", "runtime.workers=2"))
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    assert not hardware_of(config(tmp_path, "runtime.device=xla")).has_tpus


def test_a_slice_takes_all_its_hosts_or_none(tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(CPU=8.0, TPU=16.0)
    hardware = hardware_of(config(tmp_path, "runtime.device=xla", SLICE, "runtime.workers=4"))
    assert (hardware.slice_hosts, hardware.need) == (4, {"CPU": 1, "TPU": 4})
    scaling = scaling_of(hardware, 4)
    assert isinstance(scaling, ScalingConfig)
    assert (scaling.use_tpu, scaling.topology, scaling.accelerator_type) == (True, "4x4", "TPU-V6E")  # type: ignore[attr-defined]
    hosts = [Node(str(number), {"CPU": 8.0, "TPU": 4.0}, False) for number in range(4)]
    for n_whole, room in ((0, 0), (1, 4)):
        monkeypatch.setattr(hardware_module, "get_num_tpu_slices", lambda *kind, n=n_whole: n)
        assert hardware.room(hosts) == room, "hosts of several broken slices hold nobody"
    assert hardware.room(hosts[1:]) == 0
    for workers in ("6", "8", "{min: 4, max: 8}"):
        with pytest.raises(ConfigError, match="a worker on each of its 4 hosts; give that number"):
            hardware_of(config(tmp_path, "runtime.device=xla", SLICE, f"runtime.workers={workers}"))
    cluster(CPU=8.0)
    assert hardware_of(config(tmp_path, "runtime.device=xla", SLICE, "runtime.workers=4")).has_tpus, "its nodes may be on their way"
    monkeypatch.setenv("PJRT_DEVICE", "CPU")
    with pytest.raises(ConfigError, match="PJRT_DEVICE=CPU says otherwise"):
        hardware_of(config(tmp_path, "runtime.device=xla", SLICE, "runtime.workers=4"))
    with pytest.raises(ConfigError, match=r"runtime\.tpu: is for runtime\.device=xla, and device is cpu"):
        config(tmp_path, SLICE)
    monkeypatch.delenv("PJRT_DEVICE")
    with pytest.raises(ConfigError, match=r"runtime\.tpu=\{topology: 5x7, accelerator_type: TPU-V6E\}"):
        hardware_of(config(tmp_path, "runtime.device=xla", SLICE.replace("4x4", "5x7"), "runtime.workers=4"))


@pytest.mark.parametrize(("node", "address"), [("10.0.0.7", "tcp://10.0.0.7:"), ("fd00::7", "tcp://[fd00::7]:")])
def test_workers_meet_at_an_address_of_either_kind(node: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: node)
    assert free_address().startswith(address)


def test_workers_are_told_what_the_driver_says_of_pjrt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "2", "XRT_TPU_CONFIG": "old"}.items():
        monkeypatch.setenv(name, value)
    settings = ProcessGroupConfig(pjrt_settings(has_tpus=False)).settings
    assert settings.items() >= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "2"}.items()
    assert not any(name.startswith(("XRT", "FI_")) for name in settings)
    monkeypatch.delenv("PJRT_DEVICE")
    assert [pjrt_settings(has_tpus)["PJRT_DEVICE"] for has_tpus in (False, True)] == ["CPU", "TPU"]
