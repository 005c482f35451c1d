"""What every pool sends along: the probe programs as one zip file, and the program that runs them where no assay is."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Final

from assay import resources
from assay.evidence import suite as probes
from assay.foundation.digest import sha256_of

__all__ = ["RUNNER", "runner", "suite_name", "suite_zip"]

RUNNER: Final = "run_probes.py"
_WHEN: Final = (1980, 1, 1, 0, 0, 0)


def suite_zip(suite: Mapping[str, bytes]) -> bytes:
    """Return the probe programs (path below probes/ -> bytes) and their declarations; the same bytes everywhere."""
    texts = {path: data.decode() for path, data in suite.items() if path.startswith("features/")}
    declared = {
        name: item.model_dump(mode="json", exclude={"about"}) for name, item in probes.declarations(texts).items()
    }
    files = {f"probes/{path}": data for path, data in suite.items()}
    files["declared.json"] = json.dumps(declared, sort_keys=True).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(path, _WHEN), data, zipfile.ZIP_DEFLATED, 9)
    return stream.getvalue()


def suite_name(data: bytes) -> str:
    """Return the file name of a zip of probe programs; it says what is in it."""
    return f"suite-{sha256_of(data)[7:19]}.zip"


def runner() -> bytes:
    """Return the program that runs a job where no assay is installed."""
    return resources.find("templates", f"pool/{RUNNER}").read_bytes()
