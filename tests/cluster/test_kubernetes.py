"""What is given to Kubernetes: known to its schemas, closed to strangers, and nothing of value on machines that are called back."""

import copy
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.cluster.manifests import CRDS, RAY_KINDS, Document, check_against_crd, kubernetes_documents, ray_cluster_specs

DOCUMENTS, SPECS = kubernetes_documents(), ray_cluster_specs()
FOREIGN = {"PodMonitor": "monitoring.coreos.com/v1"}  # kinds of other operators, whose schemas are not at hand
needs_crds = pytest.mark.skipif(not any(CRDS.glob("*.crd.yaml.xz")), reason="KubeRay's CRDs are not here: RAYSTAGE_CRDS names their folder")


def test_all_that_was_promised_is_there() -> None:
    assert {name.split(":")[0] for name in SPECS} == {
        f"kuberay/{device}_{kind}.yaml" for device in ("gpu", "tpu") for kind in ("cluster", "job")
    }


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_document_is_of_a_known_kind(name: str) -> None:
    document = DOCUMENTS[name]
    kind, version = document["kind"], document["apiVersion"]
    assert document["metadata"]["name"].startswith("raystage")
    if kind in RAY_KINDS:
        assert version == "ray.io/v1"
    elif kind in FOREIGN:
        assert version == FOREIGN[kind]
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    else:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@needs_crds
@pytest.mark.parametrize("name", [name for name, document in DOCUMENTS.items() if document["kind"] in RAY_KINDS])
def test_kuberay_knows_every_key(name: str) -> None:
    check_against_crd(DOCUMENTS[name])


@needs_crds
@pytest.mark.parametrize("path", [["spec"], ["spec", "headGroupSpec"], ["spec", "headGroupSpec", "template", "spec", "containers", 0]])
def test_a_key_that_kuberay_does_not_know_fails(path: list[Any]) -> None:
    document = copy.deepcopy(DOCUMENTS["kuberay/gpu_cluster.yaml:RayCluster"])
    at: Any = document
    for key in path:
        at = at[key]
    at["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        check_against_crd(document)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_ray_asks_for_its_token_and_the_dashboard_stays_inside(spec: Document) -> None:
    assert spec["authOptions"]["mode"] == "token"
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not spec["headGroupSpec"].get("enableIngress")
    assert all(document["spec"].get("type", "ClusterIP") == "ClusterIP" for document in DOCUMENTS.values() if document["kind"] == "Service")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_head_and_drivers_are_kept_off_spot_machines(spec: Document) -> None:
    head = spec["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0", "nothing trains on the head"
    assert _refuses_spot(head["template"]["spec"])
    environment = head["template"]["spec"]["containers"][0]["env"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "120"} in environment, "time for a checkpoint"
    assert all(entry["name"] != "RAY_JOB_ALLOW_DRIVER_ON_WORKER_NODES" for entry in environment)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_worker_groups_scale_and_leave_in_time(spec: Document) -> None:
    assert spec["enableInTreeAutoscaling"] is True
    on_spot = [group for group in spec["workerGroupSpecs"] if _wants_spot(group["template"]["spec"])]
    assert on_spot
    for group in spec["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert _wants_spot(pod) or _refuses_spot(pod)
        assert group["minReplicas"] == 0 < group["maxReplicas"], "nothing that trains costs while nobody trains"
        command = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert 0 < int(command[command.index("--within") + 1]) < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("device", ["gpu", "tpu"])
def test_a_job_brings_the_cluster_that_stands_and_takes_it_away(device: str) -> None:
    job = DOCUMENTS[f"kuberay/{device}_job.yaml:RayJob"]["spec"]
    standing = dict(DOCUMENTS[f"kuberay/{device}_cluster.yaml:RayCluster"]["spec"])
    assert standing.pop("gcsFaultToleranceOptions")["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert job["rayClusterSpec"] == standing
    assert job["shutdownAfterJobFinishes"] is True
    assert _refuses_spot(job["submitterPodTemplate"]["spec"])


def _wants_spot(pod: Document) -> bool:
    return bool(pod.get("nodeSelector", {}).get("cloud.google.com/gke-spot") == "true")


def _refuses_spot(pod: Document) -> bool:
    wanted = pod.get("affinity", {}).get("nodeAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", {})
    refusal = {"key": "cloud.google.com/gke-spot", "operator": "NotIn", "values": ["true"]}
    return any(refusal in term["matchExpressions"] for term in wanted.get("nodeSelectorTerms", []))
