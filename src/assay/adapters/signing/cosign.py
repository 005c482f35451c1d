"""Signs and verifies through the cosign program: its own key files, KMS addresses, or keyless by identity.

cosign 3 or newer: it signs a given statement and returns the bundle (`attest-blob --statement`), so that the exact
bytes are ours and attaching them is one path for every kind of signature.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from assay.adapters.host import process
from assay.errors import EvidenceError, ToolError
from assay.evidence.statements import Statement, open_bundle
from assay.foundation.foreign import read_json
from assay.ports.signing import Verifier

__all__ = ["CosignSigner", "CosignVerifier"]

_SECONDS: Final = 120.0
_ALL_SECONDS: Final = 600.0
"""Seconds that cosign may take to check all signatures of one command: whoever may push may add signatures."""
_HINT: Final = "install cosign 3 or newer, or sign with a key of your own (--sign-key)"


class CosignSigner:
    """Satisfies `assay.ports.signing.Signer`; without a key cosign signs keyless, by the identity of who runs it.

    Args:
        log: with a key: write each signature into Sigstore's public log; keyless ones always are.
    """

    def __init__(self, key: str | None = None, *, log: bool = False, program: str = "cosign") -> None:
        done = process.run([program, "version"], timeout=_SECONDS, check=False, merge=True, hint=_HINT)
        help_text = process.run([program, "attest-blob", "--help"], timeout=_SECONDS, check=False, merge=True).text
        if "--statement" not in help_text:
            version = re.search(r"GitVersion:\s*(\S+)", done.text)
            raise ToolError(f"{program} {version[1] if version else ''} cannot sign a given statement", hint=_HINT)
        self._program = program
        self._key = key
        self._log = log
        self.name = f"cosign {key or 'keyless'}"

    def sign(self, statement: bytes) -> bytes:
        """See the port. Its password, if the key has one, is taken by cosign itself from COSIGN_PASSWORD."""
        with tempfile.TemporaryDirectory(prefix="assay-sign-") as folder:
            source, target = Path(folder, "statement.json"), Path(folder, "bundle.json")
            source.write_bytes(statement)
            argv: list[str | Path] = [self._program, "attest-blob", "--yes", "--statement", source, "--bundle", target]
            if self._key:
                argv += ["--key", self._key]
            if self._key and not self._log:
                # With a key of one's own no public log is needed, and none is told what was built here.
                argv += ["--use-signing-config=false", "--tlog-upload=false"]
            process.run(argv, timeout=_SECONDS, hint="does cosign find its password in COSIGN_PASSWORD?")
            bundle = target.read_bytes()
        if open_bundle(bundle)[0] != statement:
            raise EvidenceError("cosign signed other bytes than it was given")
        return bundle


class CosignVerifier:
    """A verifier with keys and one identity; satisfies `assay.ports.signing.Verifier`.

    Args:
        keys: is asked first.
        identity: whom the certificate must be for: an e-mail address, or the address of a workflow.
        issuer: who must have said so: the address of the OpenID provider.
        arguments: more for `cosign verify-blob-attestation`, such as the `--trusted-root` of a Sigstore of one's own.
    """

    def __init__(
        self, keys: Verifier, *, identity: str, issuer: str, arguments: Sequence[str] = (), program: str = "cosign"
    ) -> None:
        self._keys = keys
        self._identity = identity
        self._issuer = issuer
        self._arguments = tuple(arguments)
        self._program = program
        self._known: dict[bytes, str | None] = {}
        self._left = _ALL_SECONDS

    @property
    def trusts_anyone(self) -> bool:
        """See the port."""
        return True

    def signer(self, bundle: bytes) -> str | None:
        """See the port; a bundle without a certificate has no identity and is not passed to cosign."""
        if found := self._keys.signer(bundle):
            return found
        if bundle not in self._known:
            self._known[bundle] = self._ask(bundle)
        return self._known[bundle]

    def _ask(self, bundle: bytes) -> str | None:
        statement = Statement.parse(open_bundle(bundle)[0])
        material = read_json(bundle).get("verificationMaterial")
        if not isinstance(material, dict) or not material.keys() & {"certificate", "x509CertificateChain"}:
            return None
        with tempfile.TemporaryDirectory(prefix="assay-verify-") as folder:
            path = Path(folder, "bundle.json")
            path.write_bytes(bundle)
            # What the statement is about is checked where it is unpacked; here it is who signed it.
            argv: list[str | Path] = [self._program, "verify-blob-attestation", "--bundle", path]
            argv += ["--certificate-identity", self._identity, "--certificate-oidc-issuer", self._issuer]
            argv += ["--check-claims=false", "--type", statement.predicate_type, *self._arguments]
            if self._left <= 0:
                raise EvidenceError(f"the signature of {statement.digest[:19]} was not checked: there are too many")
            done = process.run(argv, timeout=_SECONDS, check=False, merge=True, hint=_HINT)
            self._left -= done.seconds
        if done.returncode == 0:
            return f"{self._identity} ({self._issuer})"
        if "no matching CertificateIdentity" in done.text:
            return None
        last = (done.text.strip().splitlines() or ["cosign said nothing"])[-1]
        raise EvidenceError(f"the signature of {statement.digest[:19]} cannot be verified: {last[:300]}")
