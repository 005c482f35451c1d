"""Options of the commands that read or write registries: keys, identities, hosts, and the policy of the checkout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from assay.errors import UsageError

if TYPE_CHECKING:
    from assay.matrix.policy import Policy

__all__ = ["identity_options", "insecure_option", "keys_option", "own_policy"]

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
