"""Signs through the cosign program: key files of its own, KMS addresses, hardware keys, or keyless by identity.

cosign 3 or newer: it signs a given statement and returns the bundle (`attest-blob --statement`), so that the exact
bytes are ours and attaching them is one path for every kind of signature.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Final

from assay.adapters import process
from assay.errors import EvidenceError, ToolError
from assay.evidence import open_bundle

__all__ = ["CosignSigner"]

_SECONDS: Final = 120.0
_HINT: Final = "install cosign 3 or newer, or sign with --key"


class CosignSigner:
    """Satisfies `assay.ports.signing.Signer`; without a key cosign signs keyless, by the identity of who runs it."""

    def __init__(self, key: str | None = None, *, program: str = "cosign") -> None:
        done = process.run([program, "version"], timeout=_SECONDS, check=False, merge=True, hint=_HINT)
        help_text = process.run([program, "attest-blob", "--help"], timeout=_SECONDS, check=False, merge=True).text
        if "--statement" not in help_text:
            version = re.search(r"GitVersion:\s*(\S+)", done.text)
            raise ToolError(f"{program} {version[1] if version else ''} cannot sign a given statement", hint=_HINT)
        self._program = program
        self._key = key
        self.name = f"cosign {key or 'keyless'}"

    def sign(self, statement: bytes) -> bytes:
        """See the port. Its password, if the key has one, is taken by cosign itself from COSIGN_PASSWORD."""
        with tempfile.TemporaryDirectory(prefix="assay-sign-") as folder:
            source, target = Path(folder, "statement.json"), Path(folder, "bundle.json")
            source.write_bytes(statement)
            argv: list[str | Path] = [self._program, "attest-blob", "--yes", "--statement", source, "--bundle", target]
            if self._key:
                # With a key of one's own no public log is needed, and none is told what was built here.
                argv += ["--key", self._key, "--use-signing-config=false", "--tlog-upload=false"]
            process.run(argv, timeout=_SECONDS, hint="does cosign find its password in COSIGN_PASSWORD?")
            bundle = target.read_bytes()
        if open_bundle(bundle)[0] != statement:
            raise EvidenceError("cosign signed other bytes than it was given")
        return bundle
