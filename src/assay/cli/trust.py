"""What the commands that speak with registries share: keys, hosts, the client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from assay.adapters.files.project import ProjectFiles, find_root
from assay.adapters.signing.cosign import CosignVerifier
from assay.adapters.signing.dsse import KeyVerifier
from assay.cli import console
from assay.errors import UsageError
from assay.evidence.policy import PolicyJudgement
from assay.foundation.outcome import Outcome
from assay.matrix.policy import Basis, Policy
from assay.pipeline.verify import Verification
from assay.ports.signing import Verifier

__all__ = [
    "identity_options",
    "insecure_option",
    "keys_option",
    "own_policy",
    "show",
    "show_judgement",
    "verifier_of",
]

F = TypeVar("F", bound=Callable[..., Any])
_REASON: Final = 160
"""Characters of a reason that people are shown; the JSON document has all of it."""


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


def verifier_of(
    keys: Sequence[Path],
    policy: tuple[Policy, Path] | None,
    *,
    identity: str | None = None,
    issuer: str | None = None,
) -> Verifier:
    """Return what knows the keys that were named, or else those of the policy, and an identity.

    Raises:
        UsageError: of identity and issuer only one was named.
    """
    found = list(keys) or [policy[1] / name for name in policy[0].keys] if policy else list(keys)
    known = KeyVerifier(found)
    if bool(identity) != bool(issuer):
        raise UsageError("--identity and --issuer go together", hint="an identity is worth what its issuer is")
    return CosignVerifier(known, identity=identity, issuer=issuer) if identity and issuer else known


def show_judgement(judgement: PolicyJudgement, *, against: bool) -> None:
    """Print one judgement as a table.

    Args:
        against: something stands against the digest whatever the records say (it was revoked, say).
    """
    devices = ", ".join(sorted({device.name for record in judgement.probes for device in record.devices}))
    answer = "no" if not judgement.ok else "by its records, but it is refused" if against else "yes"
    title = f"{judgement.image}: {judgement.level} on {judgement.target}: {answer}"
    if judgement.basis is Basis.AUDIT:
        verdict = f"the audit says {judgement.audit.on(judgement.target)}" if judgement.audit else "there is no audit"
        console.data(f"{title} (nothing ran; {verdict})")
        for line in judgement.audit.summary if judgement.audit else ():
            console.data(f"  {line}")
        return
    rows = [
        (
            line.feature,
            str(line.outcome),
            " or ".join(line.wanted) or "-",
            ("ok" if line.ok else "refused") if line.wanted else "",
            f"{line.measured:%Y-%m-%d}" if line.measured else "-",
        )
        for line in judgement.features
        if line.wanted or line.outcome is not Outcome.NOT_RUN
    ]
    console.data_table(
        ("feature", "outcome", "wanted", "judged", "measured"),
        rows,
        title=title + (f" ({devices})" if devices else ""),
    )
    # What works needs no words, and what is refused gets them elsewhere.
    for feature in judgement.features:
        if feature.ok and feature.reason and feature.outcome not in (Outcome.WORKS, Outcome.NOT_RUN):
            console.data(f"{feature.feature}: {_short(feature.reason)}")
    if rest := [line.feature for line in judgement.features if not line.wanted and line.outcome is Outcome.NOT_RUN]:
        console.data(f"not run: {', '.join(rest)}")


def _short(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _REASON else line[: _REASON - 3] + "..."


def show(seen: Verification) -> None:
    """Print a verification for people: the tables and the command to pull on stdout, the reasons on stderr."""
    for judgement in seen.judgements:
        show_judgement(judgement, against=bool(seen.reasons))
    if seen.attested:
        console.say(f"evidence: {len(seen.pieces)} statements, attested by {', '.join(seen.signers)}")
    elif seen.signers:
        known = sum(piece.signer is not None for piece in seen.pieces)
        console.say(
            f"evidence: {known} of {len(seen.pieces)} statements attested by {', '.join(seen.signers)}; "
            "nobody known stands for the others"
        )
    elif seen.pieces:
        signed = sum(piece.bundle is not None for piece in seen.pieces)
        console.say(
            f"evidence: {len(seen.pieces)} statements, recorded, but nobody known stands for them ({signed} signed)"
        )
    else:
        console.say("evidence: none")
    for note in seen.notes:
        console.say(note)
    for reason in seen.reasons:
        console.say(f"refused: {reason}")
    for judgement in seen.judgements:
        for reason in judgement.reasons:
            console.say(f"refused for {judgement.target}: {reason}")
    if seen.ok:
        console.data(seen.pull)
