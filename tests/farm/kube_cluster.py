"""A real Kubernetes on one machine: API server, controllers, scheduler, and two kubelets with an engine each.

The binaries are 1.20 (dockershim); the folder ASSAY_FARM_BIN holds kube-apiserver, kube-controller-manager,
kube-scheduler and kubelet. etcd, kubectl, dockerd, runc and ip come from the distribution. Needs root.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from farm_engines import NODES, NodeEngines

from assay.adapters.docker.oci_archive import ImageConfig, write_archive

BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
PROGRAMS = ("etcd", "kubectl", "dockerd", "runc", "ip", "nsenter", "openssl", "unshare")
CONTEXT = "farm"
NAMESPACE = "probes"
_API = "https://127.0.0.1:16443"

_KUBELET = """
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {address}
port: 10250
readOnlyPort: 0
healthzPort: 0
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failSwapOn: false
evictionHard: {{}}
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 3s
nodeLeaseDurationSeconds: 10
syncFrequency: 5s
resolvConf: ""
maxPods: 60
"""
_ROLE = """
apiVersion: v1
kind: Namespace
metadata: {name: probes, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: assay, namespace: probes}
rules:
- {apiGroups: [batch], resources: [jobs], verbs: [create, get, list, delete]}
- {apiGroups: [""], resources: [configmaps], verbs: [create, get, list, delete]}
- {apiGroups: [networking.k8s.io], resources: [networkpolicies], verbs: [create, get, list, delete]}
- {apiGroups: [""], resources: [pods], verbs: [get, list, delete]}
- {apiGroups: [""], resources: [pods/log], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: assay, namespace: probes}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: assay}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: assay}]
"""


def pause_image(archive: Path) -> Path:
    """Return the archive of what holds a pod's network, made of the layer of an image with a Python."""
    pause = archive.with_name("pause.tar")
    config = ImageConfig(
        command=("/usr/bin/python3", "-c", "import signal; signal.pause()"),
        env=("PATH=/usr/bin", "PYTHONHOME=/usr"),
        labels={},
        made_by="tests/farm",
    )
    write_archive(pause, archive.with_name("layer.tar"), "assay/pause:1", config)
    return pause


class KubeCluster(NodeEngines):
    """Starts on entering; on leaving, every process, namespace and mount that it made is gone.

    Args:
        root: a folder with a short path (sockets lie below it).
        binaries: the folder with the binaries.
        archives: images that every node has.
    """

    def __init__(self, root: Path, binaries: Path, archives: Sequence[Path]) -> None:
        super().__init__(root, archives)
        self.bin = binaries

    def more(self) -> None:
        """Start the control plane and a kubelet beside each engine."""
        self._control_plane()
        for node, address in NODES.items():
            self._run("ip", "-n", self.net, "addr", "add", f"{address}/32", "dev", "lo")
            self._kubelet(node, address)
        self.until(lambda: self.nodes() == dict.fromkeys(NODES, "True"), "two ready nodes", 90)
        self.admin("apply", "-f", "-", stdin=_ROLE)
        for node in NODES:
            self._gpus(node)

    def enter(self, patch: pytest.MonkeyPatch, folder: Path, *, config: Path | None = None) -> None:
        """Let kubectl of this process run inside the cluster's network, with the account that the Role is for."""
        kubectl = shutil.which("kubectl", path="/usr/bin:/usr/local/bin:/bin")
        path = folder / "kubectl"
        path.write_text(f'#!/bin/sh\nexec nsenter --net=/var/run/netns/{self.net} {kubectl} "$@"\n')
        path.chmod(0o755)
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        patch.setenv("KUBECONFIG", str(config or self.config))

    def __exit__(self, *_: object) -> None:
        for name in ("sched", "cm", *(f"kubelet-{node}" for node in NODES)):
            self.kill(name, signal.SIGTERM)
        super().__exit__()

    # ------------------------------------------------------------------------------------------------- control plane

    def _kubeconfig(self, name: str, token: str) -> Path:
        path = self.root / f"{name}.kubeconfig"
        cluster = {"server": _API, "certificate-authority": f"{self.root}/cert/apiserver.crt"}
        context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": CONTEXT, "context": context}],
            "current-context": CONTEXT,
        }
        path.write_text(json.dumps(config))
        return path

    def _control_plane(self) -> None:
        root = self.root
        tokens = {"admin": secrets.token_hex(16), "assay": secrets.token_hex(16)}
        rows = f'{tokens["admin"]},admin,1,"system:masters"\n{tokens["assay"]},assay,2,"assay"\n'
        (root / "tokens.csv").write_text(rows)
        self.admin_config = self._kubeconfig("admin", tokens["admin"])
        self.config = self._kubeconfig("assay", tokens["assay"])
        self._run("openssl", "genrsa", "-out", f"{root}/sa.key", "2048")
        self.start("etcd", "etcd", f"--data-dir={root}/etcd", "--listen-client-urls=http://127.0.0.1:12379",
                   "--advertise-client-urls=http://127.0.0.1:12379", "--listen-peer-urls=http://127.0.0.1:12380",
                   "--initial-advertise-peer-urls=http://127.0.0.1:12380",
                   "--initial-cluster=default=http://127.0.0.1:12380", "--unsafe-no-fsync")  # fmt: skip
        self.start("apiserver", f"{self.bin}/kube-apiserver", "--etcd-servers=http://127.0.0.1:12379",
                   "--secure-port=16443", "--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
                   "--insecure-port=0", f"--cert-dir={root}/cert", f"--token-auth-file={root}/tokens.csv",
                   "--authorization-mode=RBAC", f"--service-account-key-file={root}/sa.key",
                   f"--service-account-signing-key-file={root}/sa.key",
                   "--service-account-issuer=https://farm.test", "--service-cluster-ip-range=10.99.0.0/24",
                   "--disable-admission-plugins=ServiceAccount", "--feature-gates=TTLAfterFinished=true",
                   "--endpoint-reconciler-type=none", "--allow-privileged=true",
                   "--kubelet-preferred-address-types=InternalIP", "--kubelet-https=true")  # fmt: skip
        self.until(lambda: self.admin("get", "--raw", "/readyz", check=False) == "ok", "the API server", 90)
        self.start("cm", f"{self.bin}/kube-controller-manager", f"--kubeconfig={self.admin_config}",
                   "--leader-elect=false", f"--service-account-private-key-file={root}/sa.key",
                   "--use-service-account-credentials=false", "--port=0", "--secure-port=16457",
                   f"--cert-dir={root}/cert-cm", "--feature-gates=TTLAfterFinished=true",
                   "--node-monitor-period=2s", "--node-monitor-grace-period=12s",
                   "--allocate-node-cidrs=false")  # fmt: skip
        self.start("sched", f"{self.bin}/kube-scheduler", f"--kubeconfig={self.admin_config}",
                   "--leader-elect=false", "--port=0", "--secure-port=16459",
                   f"--cert-dir={root}/cert-sched")  # fmt: skip

    def admin(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as an administrator; return what it printed."""
        return self._kubectl(self.admin_config, *words, stdin=stdin, check=check)

    def _kubectl(self, config: Path, *words: str, stdin: str | None, check: bool) -> str:
        argv = ["nsenter", f"--net=/var/run/netns/{self.net}", "kubectl", f"--kubeconfig={config}", *words]
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def nodes(self) -> Mapping[str, str]:
        """Return whether each node is ready: `True`, `False` or `Unknown`."""
        path = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}'
        said = self.admin("get", "nodes", "-o", f"jsonpath={path}", check=False)
        return dict(word.partition("=")[::2] for word in said.split())

    # --------------------------------------------------------------------------------------------------------- nodes

    def _kubelet(self, node: str, address: str) -> None:
        folder = self.root / node
        (folder / "config.yaml").write_text(_KUBELET.format(address=address))
        (folder / "varlog").mkdir()
        shim = f"unix://{folder}/shim.sock"
        labels = "nvidia.com/gpu.product=NVIDIA-H200,nvidia.com/gpu.compute.major=9,nvidia.com/gpu.compute.minor=0"
        self.start(f"kubelet-{node}", "unshare", "--mount", "--propagation", "slave", "sh", "-c",
                   f'mount --bind {folder}/varlog /var/log; exec "$0" "$@"', f"{self.bin}/kubelet",
                   f"--config={folder}/config.yaml", f"--kubeconfig={self.admin_config}",
                   f"--hostname-override={node}", f"--node-ip={address}", f"--root-dir={folder}/kubelet",
                   f"--cert-dir={folder}/cert", "--container-runtime=docker", f"--container-runtime-endpoint={shim}",
                   f"--image-service-endpoint={shim}", f"--docker-endpoint={self.host(node)}",
                   "--pod-infra-container-image=assay/pause:1", "--image-pull-progress-deadline=2m",
                   f"--experimental-dockershim-root-directory={folder}/shim", "--runtime-cgroups=/",
                   "--kubelet-cgroups=/", f"--node-labels={labels}")  # fmt: skip

    def _gpus(self, node: str) -> None:
        """Give a node four made-up GPUs."""
        # The documented way to advertise an extended resource. Not as `curl`: for that the server indents its answer,
        # in which this build of 1.20 crashes.
        parts = ("capacity", "allocatable")
        patch = [{"op": "add", "path": f"/status/{part}/nvidia.com~1gpu", "value": "4"} for part in parts]
        body = json.dumps(patch)
        token = json.loads(self.admin_config.read_text())["users"][0]["user"]["token"]
        self._run(
            "nsenter", f"--net=/var/run/netns/{self.net}", "curl", "-sSk", "-A", "farm", "--fail", "-X", "PATCH", "-H",
            f"Authorization: Bearer {token}", "-H", "Content-Type: application/json-patch+json", "--data", body,
            f"{_API}/api/v1/nodes/{node}/status",
        )  # fmt: skip
