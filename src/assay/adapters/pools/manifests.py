"""Kubernetes manifests of jobs: as little privilege as a probe needs, and nothing that outlives them.

Pod Security "restricted" holds but for the GPU itself, which the device plugin adds. The programs come in a ConfigMap,
results go out as frames in the log, so that images under test hold no credentials and need no volume.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from assay.adapters.pools.bundle import RUNNER, runner
from assay.matrix.pools import KubernetesPool
from assay.ports.jobs import ProbeJob, seal
from assay.ports.pools import Submission

__all__ = ["JOB_LABEL", "RUN_LABEL", "bundle_of", "job_of"]

RUN_LABEL: Final = "assay-images.org/run"
JOB_LABEL: Final = "assay-images.org/job"
_OWNED: Final = {"app.kubernetes.io/managed-by": "assay"}
_BUNDLE: Final = "/assay/bundle"
_WORK: Final = "/assay/work"
_SUITE: Final = "suite.zip"
_KEPT_SECONDS: Final = 24 * 3600
"""How long a finished Job and its log stay for whoever collects them."""
_LOST_SECONDS: Final = 30
"""How long a pod stays with a node that does not answer; Kubernetes' own default is 300."""
_SPARE_SECONDS: Final = 900
"""Beyond the job's own time limit, for pulling the image."""


def bundle_of(item: Submission) -> list[dict[str, Any]]:
    """Return what all jobs of a run share: the programs, and a policy that lets no pod of the run talk to anybody."""
    labels = {**_OWNED, RUN_LABEL: item.job.run}
    programs = {RUNNER: runner(), _SUITE: item.suite}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": item.job.run, "labels": labels},
            "binaryData": {name: base64.b64encode(data).decode() for name, data in programs.items()},
        },
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": item.job.run, "labels": labels},
            "spec": {"podSelector": {"matchLabels": {RUN_LABEL: item.job.run}}, "policyTypes": ["Ingress", "Egress"]},
        },
    ]


def job_of(item: Submission, pool: KubernetesPool) -> dict[str, Any]:
    """Return the Job of a job."""
    job = item.job
    labels = {**_OWNED, RUN_LABEL: job.run, JOB_LABEL: job.name}
    spec: dict[str, Any] = {
        "backoffLimit": 2,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "template": {"metadata": {"labels": labels}, "spec": _pod(job, pool)},
    }
    metadata: dict[str, Any] = {"name": job.name, "labels": dict(labels)}
    if pool.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = pool.queue
        spec["suspend"] = True
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _pod(job: ProbeJob, pool: KubernetesPool) -> dict[str, Any]:
    selector = {pool.product_label: job.devices.model} if job.devices.model else {}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": int(job.limits.seconds) + _SPARE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": pool.user,
            "runAsGroup": pool.user,
            "fsGroup": pool.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "nodeSelector": selector,
        "tolerations": [*(item.model_dump(exclude_none=True) for item in pool.tolerations), *_lost_nodes()],
        "containers": [_container(job, pool)],
        "volumes": [
            {"name": "bundle", "configMap": {"name": job.run}},
            {"name": "work", "emptyDir": {"sizeLimit": pool.scratch}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "4Gi"}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(job.limits.shm_bytes)}},
        ],
    }
    if pool.pull_secret is not None:
        pod["imagePullSecrets"] = [{"name": pool.pull_secret}]
    return pod


def _lost_nodes() -> list[dict[str, Any]]:
    return [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute",
         "tolerationSeconds": _LOST_SECONDS}
        for key in ("unreachable", "not-ready")
    ]  # fmt: skip


def _container(job: ProbeJob, pool: KubernetesPool) -> dict[str, Any]:
    memory = str(job.limits.memory_bytes) if job.limits.memory_bytes else pool.memory
    limits: dict[str, Any] = {"cpu": pool.cpu, "memory": memory}
    if job.devices.count:
        limits[pool.resource] = job.devices.count
    return {
        "name": "probe",
        "image": job.place.reference,
        "command": [pool.python, "-u", f"{_BUNDLE}/{RUNNER}", f"{_BUNDLE}/{_SUITE}", "env", "-", f"{_WORK}/job"],
        "env": _environment(seal(job).decode()),
        "resources": {"limits": limits, "requests": dict(limits)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        "volumeMounts": [
            {"name": "bundle", "mountPath": _BUNDLE, "readOnly": True},
            {"name": "work", "mountPath": _WORK},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - inside the container
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - inside the container
        ],
    }


def _environment(job: str) -> list[Mapping[str, Any]]:
    return [
        # A `$(` in it would be taken for a variable; `$$` stands for one `$`.
        {"name": "ASSAY_JOB", "value": job.replace("$", "$$")},
        {"name": "ASSAY_EXECUTOR", "value": "kubernetes"},
        {"name": "ASSAY_MACHINE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "HOME", "value": _WORK},
    ]
