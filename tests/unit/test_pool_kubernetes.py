"""Jobs for Kubernetes: what is rendered, how little it may do, and what a cluster's answer means."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from assay.adapters.pools.kubernetes import KubernetesProbePool, job_states
from assay.adapters.pools.manifests import JOB_LABEL
from assay.foundation.digest import sha256_of
from assay.matrix.pools import KubernetesPool
from assay.ports.jobs import DevicesWanted, Place, ProbeJob, unseal
from assay.ports.pools import Loss, Phase, Submission

DIGEST = "sha256:" + "a" * 64
JOB = ProbeJob(
    run="pool-1",
    place=Place(reference=f"registry.example:5000/team/a@{DIGEST}", digest=DIGEST),
    suite=sha256_of(b"suite"),
    features=("one",),
    devices=DevicesWanted(count=2, model="NVIDIA-H200"),
    env={"PRICE": "$(HOME)"},
)
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def rendered(**more: object) -> dict[str, dict[str, Any]]:
    """Return the documents by kind."""
    pool = KubernetesPool.model_validate({"kind": "kubernetes", "context": "x", "namespace": "gpu", **more})
    files = KubernetesProbePool(pool).render([Submission(job=JOB, suite=b"zip")])
    documents = [item for data in files.values() for item in yaml.safe_load_all(data)]
    return {item["kind"]: item for item in documents}


def test_manifests_are_what_kubernetes_accepts() -> None:
    for document in rendered(pull_secret="pull", tolerations=[{"key": "nvidia.com/gpu"}]).values():
        kubernetes_validate.validate(document, "1.33", strict=True)


def test_pods_pass_pod_security_restricted() -> None:
    """The rules of https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    pod = rendered()["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    own = container["securityContext"]

    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert {"configMap", "emptyDir"} == {next(key for key in volume if key != "name") for volume in pod["volumes"]}
    assert own["allowPrivilegeEscalation"] is False
    assert {"drop": ["ALL"]} == own["capabilities"]
    assert own["runAsNonRoot"] is True
    assert 0 < pod["securityContext"]["runAsUser"]
    assert {"type": "RuntimeDefault"} == pod["securityContext"]["seccompProfile"]
    assert "ports" not in container


def test_pods_have_no_token_no_network_no_writable_root_and_limits() -> None:
    made = rendered()
    pod = made["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"cpu", "memory", "nvidia.com/gpu"} == container["resources"]["limits"].keys()
    assert ["Ingress", "Egress"] == made["NetworkPolicy"]["spec"]["policyTypes"]
    assert not {"ingress", "egress"} & made["NetworkPolicy"]["spec"].keys()
    selected = made["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= made["Job"]["spec"]["template"]["metadata"]["labels"].items()


def test_everything_has_labels_to_be_swept_by_and_jobs_expire() -> None:
    made = rendered()

    assert 0 < made["Job"]["spec"]["ttlSecondsAfterFinished"]
    for document in made.values():
        labels = document["metadata"]["labels"]
        assert ("assay", "pool-1") == (labels["app.kubernetes.io/managed-by"], labels["assay-images.org/run"])


def test_a_job_asks_for_its_gpu_by_product_and_its_image_by_digest() -> None:
    pod = rendered()["Job"]["spec"]["template"]["spec"]

    assert {"nvidia.com/gpu.product": "NVIDIA-H200"} == pod["nodeSelector"]
    assert 2 == pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
    assert f"registry.example:5000/team/a@{DIGEST}" == pod["containers"][0]["image"]


def test_the_job_arrives_as_it_was_sealed() -> None:
    made = rendered()
    env = {
        item["name"]: item.get("value", "") for item in made["Job"]["spec"]["template"]["spec"]["containers"][0]["env"]
    }

    assert "$$(HOME)" in env["ASSAY_JOB"]
    assert JOB.digest == unseal(env["ASSAY_JOB"].replace("$$", "$").encode(), ProbeJob, source="env").digest
    assert b"zip" == base64.b64decode(made["ConfigMap"]["binaryData"]["suite.zip"])


def test_a_queue_of_kueue_gets_the_job_suspended() -> None:
    job = rendered(queue="gpus")["Job"]

    assert "gpus" == job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert job["spec"]["suspend"] is True


def job(*conditions: str, **more: Any) -> dict[str, Any]:
    told = [{"type": name, "status": "True", "reason": "R", "message": "m"} for name in conditions]
    made = {"name": "j", "creationTimestamp": more.pop("created", "2026-11-30T11:59:00Z")}
    return {"kind": "Job", "metadata": made, "spec": more, "status": {"conditions": told}}


def pod(phase: str, state: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    status = {"phase": phase, "containerStatuses": [{"state": state}] if state else [], **more}
    metadata = {"name": "p", "labels": {JOB_LABEL: "j"}, "creationTimestamp": "2026-11-30T11:59:00Z"}
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n1"}, "status": status}


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


@pytest.mark.parametrize(
    ("items", "phase", "loss"),
    [
        ([job()], Phase.WAITING, Loss.QUOTA),
        ([job(created="2026-11-30T11:59:58Z")], Phase.WAITING, None),
        ([job(suspend=True)], Phase.WAITING, None),
        ([job("Complete"), pod("Succeeded", ended(0))], Phase.ENDED, None),
        ([job("Failed"), pod("Failed", ended(137))], Phase.ENDED, Loss.KILLED),
        ([job("Failed"), pod("Failed", ended(137, "OOMKilled"))], Phase.ENDED, Loss.OUT_OF_MEMORY),
        ([job("Failed"), pod("Failed", ended(2))], Phase.ENDED, Loss.NO_RESULT),
        ([job("Failed"), pod("Failed", reason="Evicted")], Phase.ENDED, Loss.EVICTED),
        ([job("Failed"), pod("Failed", reason="DeadlineExceeded")], Phase.ENDED, Loss.TIME_LIMIT),
        ([job("Failed"), pod("Failed", reason="NodeLost")], Phase.ENDED, Loss.NODE_LOST),
        ([job(), pod("Running", {"running": {}})], Phase.RUNNING, None),
        ([job(), pod("Pending")], Phase.WAITING, None),
        ([job(), pod("Pending", {"waiting": {"reason": "ImagePullBackOff"}})], Phase.WAITING, Loss.PULL_FAILED),
        ([job(), pod("Pending", {"waiting": {"reason": "InvalidImageName"}})], Phase.WAITING, Loss.PULL_FAILED),
        ([job(), pod("Pending", {"waiting": {"reason": "CreateContainerConfigError"}})], Phase.WAITING, Loss.REFUSED),
        ([job(), pod("Failed", ended(137))], Phase.WAITING, None),
    ],
)
def test_what_a_cluster_says_becomes_a_state(items: list[dict[str, Any]], phase: Phase, loss: Loss | None) -> None:
    found = job_states(json.loads(json.dumps(items)), NOW)

    assert ["j"] == list(found)
    assert (phase, loss) == (found["j"].phase, found["j"].loss)


def test_a_pod_that_is_being_deleted_does_not_count() -> None:
    gone = pod("Running", {"running": {}})
    gone["metadata"]["deletionTimestamp"] = "2026-11-30T11:59:30Z"

    assert Phase.WAITING is job_states([job(), gone], NOW)["j"].phase
