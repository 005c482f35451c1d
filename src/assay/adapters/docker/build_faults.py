"""Distinguish failures of the builder or a registry from failures of the cell, from the output of buildx.

buildx gives no code for either, so that its words are all there is. They are read here alone, by one table; every row
has an example in tests/data/build_faults.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assay.foundation.secret import hide
from assay.ports.builder import BuildFault, FaultKind

__all__ = ["explain", "find_fault"]

K = FaultKind
_STEP_ENDED: Final = re.compile(r'process ".*" did not complete successfully: (.*)', re.DOTALL)
_ERROR: Final = re.compile(r"^(?:ERROR|error): ", re.MULTILINE)
_SOLVING: Final = re.compile(r"(?:failed to build: )?failed to solve: ")
_KILLED: Final = re.compile(r"exit code: 137\b|cannot allocate memory")
_REGISTRY: Final = re.compile(
    r"failed to (?:resolve source metadata|resolve reference|push|authorize|fetch (?:anonymous|oauth) token)"
    r"|httpReadSeeker|pull access denied|unexpected status from \w+ request|toomanyrequests"
)
_STEP_LINES: Final = 6
"""Lines at the end of a failed step's output that are read."""


@dataclass(frozen=True, kw_only=True)
class _Kind:
    what: str
    advice: str
    tries: int = 0


# Tries are bounded by a deadline too (assay.adapters.docker.retried). A step that ran out of memory does so again.
_KINDS: Final = {
    K.CLIENT: _Kind(
        what="docker buildx failed before it built anything",
        advice="run the command in repeat.sh beside the log by hand; `docker buildx ls` shows the builders",
    ),
    K.NO_BUILDER: _Kind(
        what="buildx has no builder of that name",
        advice="`docker buildx ls` lists the builders, `docker buildx create` makes one",
    ),
    K.NO_CONTEXT: _Kind(
        what="the Docker context does not exist, or is not a builder",
        advice="`docker context ls` lists the contexts; `docker buildx create --name NAME CONTEXT` makes one a builder",
    ),
    K.UNREACHABLE: _Kind(
        what="the builder does not answer",
        advice="`docker buildx ls` shows which builders run; start it, or build with another --builder",
        tries=20,
    ),
    K.LOST: _Kind(
        what="the builder went away while it built",
        advice="look into its log; then run the same again: finished steps are cached there",
        tries=20,
    ),
    K.KILLED: _Kind(
        what="a step was killed from outside (out of memory, or the builder was evicted)",
        advice="give the builder more memory, or run fewer cells or compilers at once (--jobs, MAX_JOBS)",
        tries=1,
    ),
    K.DISK_FULL: _Kind(
        what="the builder's disk is full",
        advice="`docker buildx du` shows what fills it, `docker buildx prune` frees what no image needs",
    ),
    K.DISK_BROKEN: _Kind(
        what="the builder's disk fails",
        advice="look into the kernel's log on that machine; then move the builder's data",
    ),
    K.NETWORK: _Kind(
        what="the builder could not reach the network",
        advice="check names, proxies and firewalls on the builder's machine; then run the same again",
        tries=3,
    ),
    K.REGISTRY_UNREACHABLE: _Kind(
        what="a registry does not answer the builder",
        advice="is it up, and reachable from the builder? ASSAY_REGISTRY_MIRRORS names another place for bases",
        tries=20,
    ),
    K.REGISTRY_LIMITED: _Kind(
        what="a registry limits how often the builder may pull",
        advice="log in (`docker login`), wait, or name a mirror in ASSAY_REGISTRY_MIRRORS",
        tries=4,
    ),
    K.REGISTRY_DENIED: _Kind(
        what="a registry refused the builder",
        advice="`docker login` with an account that may read (and, to push, write) that repository",
    ),
    K.REGISTRY_ABSENT: _Kind(
        what="a registry does not have an image that the build starts from",
        advice="is the name right, and was the image deleted? `assay lock` looks its digest up again",
    ),
    K.REGISTRY_TLS: _Kind(
        what="TLS with a registry failed",
        advice="give the builder the registry's CA, or declare the registry insecure in the builder's configuration",
    ),
    K.REGISTRY_DNS: _Kind(
        what="the builder cannot resolve a registry's name",
        advice="is the name right? Check the resolver of the builder's machine",
        tries=3,
    ),
}

# What buildx says of itself and of its builder: docker/buildx 0.13 and moby/buildkit 0.12 as measured.
_BUILDER: Final[tuple[tuple[str, FaultKind], ...]] = (
    (r"no space left on device|disk quota exceeded", K.DISK_FULL),
    (r"input/output error|read-only file system", K.DISK_BROKEN),
    (r'no builder "[^"]*" found', K.NO_BUILDER),
    (r"context not found|to switch to context \"", K.NO_CONTEXT),
    (r"Cannot connect to the Docker daemon|error during connect|failed to dial", K.UNREACHABLE),
    (r"^(?:DeadlineExceeded: )?(?:.*: )?context deadline exceeded$", K.UNREACHABLE),
    # gRPC's word for a server that is gone; whatever follows tells how it was noticed.
    (r"code = Unavailable|^Unavailable: |closing transport|graceful_stop", K.LOST),
    (r"connection reset by peer|unexpected EOF|broken pipe|context canceled|ssh: ", K.LOST),
    # The kubernetes driver speaks through `exec` into a pod (docker/buildx driver/kubernetes/execconn).
    (r"command terminated with exit code 137|pod .*(?:not found|evicted)|OOMKilled", K.LOST),
    (r"dial tcp|no such host|network is unreachable|TLS handshake timeout|i/o timeout", K.NETWORK),
)
# What follows after a registry's address: containerd's resolver, docker.io's words (429), distribution-spec codes.
_OF_REGISTRY: Final[tuple[tuple[str, FaultKind], ...]] = (
    (r"no space left on device|disk quota exceeded", K.DISK_FULL),
    (r"429 Too Many Requests|toomanyrequests", K.REGISTRY_LIMITED),
    (r"no such host|server misbehaving|name resolution", K.REGISTRY_DNS),
    (r"TLS handshake timeout|i/o timeout|Client\.Timeout", K.REGISTRY_UNREACHABLE),
    (r"x509:|tls: |server gave HTTP response to HTTPS client", K.REGISTRY_TLS),
    (r"40[13] (?:Unauthorized|Forbidden)|authorization failed|access denied|insufficient_scope", K.REGISTRY_DENIED),
    (r"not found$|manifest unknown|404 Not Found", K.REGISTRY_ABSENT),
    (r"50[0-9] |dial tcp|EOF|connection re(?:set|fused)|deadline exceeded|broken pipe", K.REGISTRY_UNREACHABLE),
)
# What programs print when the builder fails under them: strerror's words at the end of a line. "Connection refused" and
# "Name or service not known" are not among them: a recipe with a wrong address gives the same.
_IN_STEP: Final[tuple[tuple[str, FaultKind], ...]] = (
    (r"No space left on device(?: \(os error 28\))?[.'\"]?$|Disk quota exceeded$", K.DISK_FULL),
    (r"Temporary failure (?:in name resolution|resolving '[^']+')", K.NETWORK),
    (r"(?:Network is unreachable|Connection timed out)(?: \(os error \d+\))?[\])>.]*$", K.NETWORK),
    (r"Connection reset by peer(?: \(os error \d+\))?[\])>.]*$", K.NETWORK),
)


def find_fault(text: str, excerpt: Sequence[str]) -> BuildFault | None:
    """Return what failed if it was not the cell; None if a step or the Dockerfile failed.

    Args:
        text: what buildx printed.
        excerpt: the end of the failed step's output.
    """
    said = _last_error(text)
    solving = _SOLVING.match(said)
    said = said[solving.end() :] if solving else said
    if ended := _STEP_ENDED.search(said):
        # The command line between the quotes may say anything.
        kind = _first(_BUILDER, ended[1]) or (K.KILLED if _KILLED.search(ended[1]) else None)
        if kind is None:
            kind, said = _in_step(excerpt)
    elif "dockerfile parse error" in said:
        kind = None
    elif _REGISTRY.search(said):
        kind = _first(_OF_REGISTRY, said) or K.REGISTRY_UNREACHABLE
    else:
        # Whatever says something about the cell was found out by solving its Dockerfile.
        kind = _first(_BUILDER, said) or (None if solving else K.CLIENT)
    if kind is None:
        return None
    return BuildFault(kind=kind, said=hide(" ".join(said.split()))[-400:], tries=_KINDS[kind].tries)


def _in_step(excerpt: Sequence[str]) -> tuple[FaultKind | None, str]:
    for line in reversed([line.rstrip() for line in excerpt[-_STEP_LINES:] if not line.startswith(" > ")]):
        if (kind := _first(_IN_STEP, line)) is not None:
            return kind, line
    return None, ""


def explain(fault: BuildFault, *, builder: str | None) -> str:
    """Return the message: what failed, that the cell is not the cause, and what to try."""
    where = f" (builder {builder})" if builder else ""
    row = _KINDS[fault.kind]
    return f"not the cell's fault: {row.what}{where}: {fault.said}\n  try: {row.advice}"


def _last_error(text: str) -> str:
    """Return the text after the last `ERROR:` of buildx, else its last three lines."""
    ends = [match.end() for match in _ERROR.finditer(text)]
    return (text[ends[-1] :] if ends else "\n".join(text.splitlines()[-3:])).strip()


def _first(table: tuple[tuple[str, FaultKind], ...], text: str) -> FaultKind | None:
    return next((kind for pattern, kind in table if re.search(pattern, text, re.MULTILINE)), None)
