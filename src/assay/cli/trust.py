"""What the commands that speak with registries share: keys, hosts, the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.matrix.policy import Policy
    from assay.ports.registry import Registry
    from assay.ports.signing import Verifier

__all__ = [
    "identity_options",
    "insecure_option",
    "keys_option",
    "own_policy",
    "registry_client",
    "verifier_of",
]

F = TypeVar("F", bound=Callable[..., Any])


def insecure_option(function: F) -> F:
    """Add `--insecure HOST`."""
    return click.option(
        "--insecure",
        multiple=True,
        metavar="HOST",
        help="Allow this registry without TLS (loopback is always allowed).",
    )(function)


def keys_option(function: F) -> F:
    """Add `--key FILE` for public keys."""
    return click.option(
        "--key",
        "keys",
        multiple=True,
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Accept only evidence that is signed with this public key (PEM; repeatable).",
    )(function)


def own_policy(project: Path | None) -> tuple[Policy, Path] | None:
    """Return the policy of the checkout that is named or that this folder is in, with its folder; None without one."""
    from assay.adapters.files.project import ProjectFiles, find_root

    try:
        root = project or find_root()
    except UsageError:
        return None
    return ProjectFiles(root).load().matrix.policy, root


def identity_options(function: F) -> F:
    """Add `--identity` and `--issuer` of keyless signatures."""
    for name, words in (
        ("issuer", "URL of the OpenID provider that issued the identity (--identity)."),
        (
            "identity",
            "Also accept keyless signatures of this identity, checked by cosign: an e-mail or a workflow URL.",
        ),
    ):
        function = click.option(f"--{name}", help=words)(function)
    return function


def registry_client(insecure: Sequence[str], *, seconds: float | None = None) -> Registry:
    """Return what speaks to registries, with the credentials that `docker login` keeps.

    Args:
        insecure: registries that may be spoken to without TLS.
        seconds: how long it may be busy in all; None: as long as pushing images may take.
    """
    from assay.adapters.registry.client import connect

    return connect(insecure=insecure) if seconds is None else connect(insecure=insecure, seconds=seconds)


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
        raise UsageError("--identity and --issuer go together", hint="an identity is worth what its issuer is")
    return CosignVerifier(known, identity=identity, issuer=issuer) if identity and issuer else known
