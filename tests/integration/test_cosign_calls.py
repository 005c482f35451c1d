"""What cosign is asked to do, by a program that stands in for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.adapters.signing.cosign import CosignSigner, CosignVerifier
from assay.adapters.signing.dsse import KeyVerifier
from assay.errors import EvidenceError
from assay.evidence.statements import ArtifactKind, Statement, make_bundle

STATEMENT = Statement.make(ArtifactKind.REVOCATION, name="x", digest="sha256:" + "d" * 64, predicate={}).raw


def stand_in(folder: Path, bundle: bytes) -> Path:
    program = folder / "cosign"
    (folder / "answer").write_bytes(bundle)
    program.write_text(
        f"""#!/bin/sh
echo "$*" >> {folder}/calls
while [ $# -gt 0 ]; do
  case $1 in
    --help) echo --statement ;;
    --bundle) [ -e "$2" ] || cat {folder}/answer > "$2" ;;
  esac
  shift
done
"""
    )
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("key", "log", "logged"),
    [("k", False, False), ("k", True, True), (None, False, True)],
    ids=["key", "log", "keyless"],
)
def test_log_has_the_expected_lines(tmp_path: Path, key: str | None, log: bool, logged: bool) -> None:
    program = stand_in(tmp_path, make_bundle(STATEMENT, [("", b"s")], hint="h"))
    CosignSigner(key, log=log, program=str(program)).sign(STATEMENT)
    call = (tmp_path / "calls").read_text().splitlines()[-1]

    assert ("--tlog-upload=false" not in call) is logged
    assert ("--key k" in call) is (key is not None)


def test_time_for_signatures_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("assay.adapters.signing.cosign._ALL_SECONDS", 1e-9)
    program = stand_in(tmp_path, b"")
    verifier = CosignVerifier(KeyVerifier([]), identity="a", issuer="b", program=str(program))
    signed = [
        make_bundle(STATEMENT, [("", text)], hint="h").replace(b'"publicKey"', b'"certificate"')
        for text in (b"1", b"2")
    ]

    assert verifier.signer(signed[0]) == "a (b)"
    with pytest.raises(EvidenceError, match="too many"):
        verifier.signer(signed[1])
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
