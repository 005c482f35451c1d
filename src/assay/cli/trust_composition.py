"""The composition root of trust: what signs, what verifies, and what publishing needs.

Adapters are imported where they are made, as in composition.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cli import console
from assay.cli.registry_composition import reading_client, registry_client
from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.matrix.policy import Policy
    from assay.pipeline.publishing.tags import PublishPorts
    from assay.ports.signing import Signer, Verifier

__all__ = ["publish_ports", "signer_of", "verifier_of"]


def verifier_of(
    keys: Sequence[Path],
    policy: tuple[Policy, Path] | None,
    *,
    identity: str | None = None,
    issuer: str | None = None,
) -> Verifier:
    """Return a verifier for the named keys, else those of the policy, and an identity.

    Raises:
        UsageError: of identity and issuer only one was named.
    """
    from assay.adapters.signing.cosign import CosignVerifier
    from assay.adapters.signing.dsse import KeyVerifier

    found = list(keys) or [policy[1] / name for name in policy[0].keys] if policy else list(keys)
    known = KeyVerifier(found)
    if bool(identity) != bool(issuer):
        raise UsageError("--identity and --issuer go together", hint="an identity is only as trustworthy as its issuer")
    return CosignVerifier(known, identity=identity, issuer=issuer) if identity and issuer else known


def signer_of(key: Path | None, cosign_key: str | None, *, keyless: bool, log: bool) -> Signer | None:
    """Return what signs: a private key, or cosign; None without either.

    Args:
        key: a private key (PEM).
        cosign_key: a key file or the address of a key service, for cosign.
        keyless: cosign signs with an OpenID identity.
        log: cosign also writes to the public log.

    Raises:
        UsageError: the options contradict each other.
    """
    from assay.adapters.signing.cosign import CosignSigner
    from assay.adapters.signing.dsse import KeySigner

    if sum((key is not None, cosign_key is not None, keyless)) > 1:
        raise UsageError("give one of --sign-key, --cosign-key and --cosign-keyless")
    if log and not cosign_key:
        raise UsageError("--cosign-log goes with --cosign-key", hint="keyless signatures are in the log anyway")
    if key is not None:
        return KeySigner(key)
    return CosignSigner(cosign_key, log=log) if cosign_key or keyless else None


def publish_ports(
    root: Path, signer: Signer | None, verifier: Verifier, *, insecure: Sequence[str], reader_config: Path | None
) -> PublishPorts:
    """Return the ports of the publish step.

    Args:
        root: the project.
        signer: signs evidence; None: it stays unsigned.
        verifier: reads signatures back.
        insecure: registries that are spoken to without TLS.
        reader_config: Docker configuration whose credentials read back what was pushed; None: the same as for pushing.
    """
    from assay.adapters.files.journal import FileJournal
    from assay.pipeline.publishing.tags import PublishPorts

    registry = registry_client(insecure)
    return PublishPorts(
        registry=registry,
        reader=reading_client(insecure, reader_config) if reader_config else registry,
        journal=FileJournal(root / "build_logs"),
        signer=signer,
        verifier=verifier,
        say=console.say,
    )
