"""Pools of Kubernetes: a Job for each job, through kubectl.

kubectl and not a client library: it reads the user's kubeconfig with every way to log in that clusters have (plugins,
OIDC, proxies), its requests are the same from 1.20 on, and nothing has to be installed beside it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import yaml

from assay.adapters.host import process
from assay.adapters.host.process import Completed
from assay.adapters.pools.frames import results_in, without_frames
from assay.adapters.pools.manifests import JOB_LABEL, RUN_LABEL, bundle_of, job_of
from assay.errors import ToolError
from assay.foundation.foreign import ForeignError, read_json
from assay.matrix.pools import KubernetesPool
from assay.ports.pools import JobOutput, JobState, Loss, Phase, PoolItem, PoolSilent, Submission

__all__ = ["KubernetesProbePool", "job_states"]

_ROOM: Final = 500
_PATIENCE: Final = 60.0
_BYTES: Final = 128 << 20
_ITEMS: Final = 8_000_000
_LOOKS: Final = 5
"""How often the log of a pod that ended is read until there is a result in it."""
_NO_POD_SECONDS: Final = 10.0
_PULLS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable",
     "ImageInspectError"}
)  # fmt: skip
_REFUSALS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_VERBS: Final = ("create jobs", "delete jobs", "create configmaps", "create networkpolicies.networking.k8s.io",
                 "list pods", "get pods/log")  # fmt: skip


class KubernetesProbePool:
    """A namespace; see `assay.ports.pools.ProbePool`."""

    kind = "kubernetes"

    def __init__(self, pool: KubernetesPool) -> None:
        self._pool = pool
        self.room = pool.at_once or _ROOM
        self._ended: dict[str, str] = {}
        """Pod that ended -> its job."""
        self._looks: dict[str, int] = defaultdict(int)

    def _kubectl(self, *words: str, stdin: bytes | None = None, check: bool = True) -> Completed:
        """Run kubectl; raises PoolSilent if the cluster does not answer, ToolError if it refuses."""
        base = ["kubectl", "--context", self._pool.context, "--namespace", self._pool.namespace]
        argv = [*base, "--request-timeout=30s", *words]
        done: Completed | None = None
        said = ""
        try:
            done = process.run(argv, stdin=stdin, timeout=_PATIENCE, limit=_BYTES, check=check)
        except ToolError as error:
            said = error.message
        if done is not None and done.returncode == 0:
            return done
        # kubectl has one exit code for everything: ask whether anybody answers.
        try:
            process.run([*base, "--request-timeout=10s", "get", "--raw", "/version"], timeout=20)
        except ToolError as error:
            raise PoolSilent(f"the cluster of {self._pool.context} does not answer: {error.message}") from error
        if done is None:
            raise ToolError(said)
        return done

    def submit(self, jobs: Sequence[Submission]) -> Mapping[str, str]:
        """Create the Jobs; see the port. One that exists answers 409 and stays."""
        items = [*bundle_of(jobs[0]), *(job_of(item, self._pool) for item in jobs)]
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()
        done = self._kubectl("create", "-f", "-", "-o", "name", stdin=document, check=False)
        if done.returncode == 0:
            return {}
        said = done.stderr.decode(errors="replace").splitlines()
        selector = f"{RUN_LABEL}={jobs[0].job.run}"
        there = self._kubectl("get", "jobs", "-l", selector, "-o", "name").text.split()
        names = {line.rpartition("/")[2] for line in there}
        absent = [item.job.name for item in jobs if item.job.name not in names]
        last = said[-1] if said else "kubectl create failed"
        return {name: next((line for line in said if name in line), last)[:500] for name in absent}

    def poll(self, run: str) -> Mapping[str, JobState]:
        """Return the state of every Job of a run."""
        try:
            data = self._kubectl("get", "jobs,pods", "-l", f"{RUN_LABEL}={run}", "-o", "json").stdout
            items = read_json(data, limit=_BYTES, items=_ITEMS)["items"]
        except ToolError as error:
            raise PoolSilent(f"the jobs of {run} cannot be listed: {error.message}") from error
        except (ForeignError, KeyError, TypeError) as error:
            raise PoolSilent(f"kubectl's list of the jobs of {run} cannot be read: {error}") from error
        for pod in items:
            if pod["kind"] == "Pod" and pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}:
                self._ended[pod["metadata"]["name"]] = pod["metadata"].get("labels", {}).get(JOB_LABEL, "")
        return job_states(items, datetime.now(UTC))

    def collect(self, names: Collection[str], *, run: str) -> Sequence[JobOutput]:  # noqa: ARG002 - names have it
        """Return the results in the logs of pods that ended."""
        found: list[JobOutput] = []
        for pod, job in list(self._ended.items()):
            if job not in names or self._looks[pod] >= _LOOKS:
                continue
            try:
                log = self._kubectl("logs", pod, "--container", "probe", check=False).stdout
            except ToolError:
                log = b""
            self._looks[pod] += 1
            results = results_in(log)
            rest = without_frames(log)
            found += [JobOutput(name=job, result=data, log=rest) for data, _ in results]
            if any(result.ended != "unfinished" for _, result in results):
                self._looks[pod] = _LOOKS
        return found

    def cancel(self, names: Collection[str], *, run: str) -> None:  # noqa: ARG002 - names have it
        """Delete Jobs and their pods."""
        known = list(names)
        for start in range(0, len(known), 100):
            part = known[start : start + 100]
            self._kubectl("delete", "jobs", "--ignore-not-found", "--wait=false", *part, check=False)

    def sweep(self, run: str) -> None:
        """Delete everything of a run."""
        kinds = "jobs,pods,configmaps,networkpolicies.networking.k8s.io"
        self._kubectl("delete", kinds, "-l", f"{RUN_LABEL}={run}", "--ignore-not-found", "--wait=false", check=False)

    def render(self, jobs: Sequence[Submission]) -> Mapping[str, bytes]:
        """Return the manifests."""
        files = {"00-bundle.yaml": _dump(*bundle_of(jobs[0]))}
        return files | {f"{item.job.name}.yaml": _dump(job_of(item, self._pool)) for item in jobs}

    def inventory(self, registry: str | None) -> Sequence[PoolItem]:
        """Return what the cluster has."""
        if process.find("kubectl") is None:
            return [PoolItem(name="kubectl", ok=False, found="not on PATH", mend="install kubectl")]
        try:
            version = read_json(self._kubectl("get", "--raw", "/version").stdout).get("gitVersion", "?")
        except (PoolSilent, ToolError, ForeignError) as error:
            mend = f"kubectl --context {self._pool.context} version"
            return [PoolItem(name="cluster", ok=False, found=str(error).splitlines()[0][:200], mend=mend)]
        items = [PoolItem(name="cluster", ok=True, found=f"Kubernetes {version}")]
        items += [self._may(verb) for verb in _VERBS]
        items += self._gpus()
        wanted = {"secret": self._pool.pull_secret, "localqueues.kueue.x-k8s.io": self._pool.queue}
        for kind, name in wanted.items():
            if name is not None:
                ok = self._kubectl("get", kind, name, "-o", "name", check=False).returncode == 0
                mend = "" if ok else f"create it in the namespace {self._pool.namespace}"
                items.append(PoolItem(name=f"{kind} {name}", ok=ok, found="there" if ok else "not there", mend=mend))
        if registry:
            said = f"{registry}: only a pod can tell; the first job does"
            items.append(PoolItem(name="registry", ok=None, found=said))
        return items

    def _may(self, verb: str) -> PoolItem:
        ok = self._kubectl("auth", "can-i", *verb.split(), check=False).text.strip() == "yes"
        mend = "" if ok else "docs/how-to/pools-kubernetes.md has the Role"
        return PoolItem(name=f"may {verb}", ok=ok, found="yes" if ok else "no", mend=mend)

    def _gpus(self) -> Sequence[PoolItem]:
        try:
            nodes = read_json(self._kubectl("get", "nodes", "-o", "json").stdout, limit=_BYTES, items=_ITEMS)["items"]
        except (ToolError, ForeignError, KeyError):
            return [PoolItem(name="gpus", ok=None, found="this account may not list nodes")]
        count: dict[str, int] = defaultdict(int)
        for node in nodes:
            labels = node["metadata"].get("labels", {})
            text = node.get("status", {}).get("allocatable", {}).get(self._pool.resource, "0")
            if (number := int(text) if text.isdigit() else 0) > 0:
                count[f"{labels.get(self._pool.product_label, 'without the label')}{_capability(labels)}"] += number
        has = ", ".join(f"{number} {name}" for name, number in sorted(count.items())) or "none"
        items = [PoolItem(name="gpus", ok=None if not self._pool.gpus else bool(count), found=has)]
        for gpu in self._pool.gpus:
            ok = any(name.partition(" ")[0] == gpu for name in count)
            mend = "" if ok else f"name one that is there, or label nodes with {self._pool.product_label}"
            items.append(PoolItem(name=f"gpu {gpu}", ok=ok, found="there" if ok else f"not among {has}", mend=mend))
        return items


def _capability(labels: Mapping[str, str]) -> str:
    major, minor = (labels.get(f"nvidia.com/gpu.compute.{part}") for part in ("major", "minor"))
    return f" (sm_{major}{minor})" if major and minor else ""


def _dump(*documents: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump_all(documents, sort_keys=False, width=110).encode()


def job_states(items: Sequence[Mapping[str, Any]], now: datetime) -> dict[str, JobState]:
    """Return the states of Jobs by name, out of a list of Jobs and their pods."""
    pods: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for item in items:
        if item["kind"] == "Pod":
            pods[item["metadata"].get("labels", {}).get(JOB_LABEL, "")].append(item)
    return {
        item["metadata"]["name"]: _state(item, pods[item["metadata"]["name"]], now)
        for item in items
        if item["kind"] == "Job"
    }


def _state(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], now: datetime) -> JobState:
    told = job.get("status", {}).get("conditions", ())
    conditions = {item["type"]: item for item in told if item["status"] == "True"}
    if "Complete" in conditions:
        return JobState(phase=Phase.ENDED, said="complete")
    if "Failed" in conditions:
        return _failed(conditions["Failed"], pods)
    live = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    live = [pod for pod in live if pod.get("status", {}).get("phase") in {"Pending", "Running"}]
    if live:
        return _of_pod(max(live, key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))))
    if job["spec"].get("suspend"):
        return JobState(phase=Phase.WAITING, said="suspended: it waits for its queue")
    if pods or (now - _moment(job["metadata"].get("creationTimestamp"), now)).total_seconds() < _NO_POD_SECONDS:
        return JobState(phase=Phase.WAITING, said="no pod yet")
    said = "no pod: a quota or an admission rule; kubectl describe job shows which"
    return JobState(phase=Phase.WAITING, loss=Loss.QUOTA, said=said)


def _moment(text: object, now: datetime) -> datetime:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return now


def _failed(condition: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> JobState:
    loss, where = Loss.NO_RESULT, ""
    for pod in pods:
        status = pod.get("status", {})
        where = pod["spec"].get("nodeName", "")
        ends = [item.get("state", {}).get("terminated") for item in status.get("containerStatuses", ())]
        codes = {end.get("exitCode") for end in ends if end}
        reasons = {end.get("reason") for end in ends if end} | {status.get("reason")}
        if "OOMKilled" in reasons:
            loss = Loss.OUT_OF_MEMORY
        elif "Evicted" in reasons:
            loss = Loss.EVICTED
        elif reasons & {"NodeLost", "Shutdown", "NodeShutdown", "Terminated"}:
            loss = Loss.NODE_LOST
        elif "DeadlineExceeded" in reasons:
            loss = Loss.TIME_LIMIT
        elif codes & {137, 143}:
            loss = Loss.KILLED
    said = f"{condition.get('reason', '')}: {condition.get('message', '')}"[:200]
    return JobState(phase=Phase.ENDED, loss=loss, said=said, where=where)


def _of_pod(pod: Mapping[str, Any]) -> JobState:
    status, where = pod.get("status", {}), pod["spec"].get("nodeName", "")
    waiting = [item["state"]["waiting"] for item in status.get("containerStatuses", ()) if "waiting" in item["state"]]
    for item in waiting:
        reason, said = item.get("reason", ""), f"{item.get('reason', '')}: {item.get('message', '')}"[:300]
        if reason in _PULLS:
            return JobState(phase=Phase.WAITING, loss=Loss.PULL_FAILED, said=said, where=where)
        if reason in _REFUSALS:
            return JobState(phase=Phase.WAITING, loss=Loss.REFUSED, said=said, where=where)
    if status.get("phase") == "Running":
        return JobState(phase=Phase.RUNNING, said="running", where=where)
    blocked = [item.get("message", "") for item in status.get("conditions", ()) if item.get("status") == "False"]
    return JobState(phase=Phase.WAITING, said=next((text for text in blocked if text), "pending")[:200], where=where)
