"""Dockerfiles that build one wheel from source and nothing else, cut from the Dockerfile of an image. Pure.

The text decides what is built: it has the base, the tools with their hashes, and the source by hash or tag. So a wheel
is known by the digest of this text, and images with the same text share it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Final

__all__ = ["WHEEL_FOLDER", "builds_wheel", "sdist_recipe", "stage_recipe"]

WHEEL_FOLDER: Final = "/wheel"
"""Where a stage that compiles leaves its wheel."""
_BUILDS: Final = """\
/opt/tools/bin/uv build --quiet --wheel --no-build-isolation --python /opt/venv/bin/python --out-dir /wheel .
wheel=$(basename /wheel/*.whl)
/opt/tools/bin/uv pip install --quiet --no-deps --no-index --find-links /wheel --python /opt/venv/bin/python \
--prefix /out --link-mode copy --compile-bytecode "${wheel%%-*}\""""
"""How such a stage ends: it installs its wheel, and nothing else reaches /out."""
_SECRETS: Final = " ".join(
    f"--mount=type=secret,id={name}" for name in ("ca-bundle", "uv-config", "pip-config", "netrc")
)
_COMMENTS: Final = re.compile(r"(?:\n(?:#.*)?)+\Z")


def builds_wheel(script: str) -> bool:
    """Return whether all that the scripts of a stage put into /out is the wheel that they build."""
    return script.rstrip().endswith(_BUILDS) and script.count("/out") == 1


def stage_recipe(dockerfile: str, stage: str) -> str:
    """Return a Dockerfile that builds the wheel of a stage; of the image's own stage it has nothing.

    Args:
        dockerfile: of the image, from `ARG BASE=` on.
        stage: of it, for which `builds_wheel` holds.
    """
    return _exported(dockerfile[: dockerfile.rfind("\nFROM ")], stage)


def sdist_recipe(tools: str, requirement: str, indexes: Sequence[str]) -> str:
    """Return a Dockerfile that builds the wheel of a source archive.

    Args:
        tools: the Dockerfile of the image up to its stage `tools`.
        requirement: name, version and hash of the archive, as the lock has them.
        indexes: addresses of indexes beside the default.
    """
    more = "".join(f" --extra-index-url {shlex.quote(url)}" for url in indexes)
    # The time is in the archive's entries: a wheel without compiled code then has the same bytes everywhere.
    script = f"""
FROM tools AS sdist
RUN {_SECRETS} <<'SCRIPT'
set -eu
. /opt/tools/site.sh
export SOURCE_DATE_EPOCH=315532800
printf '%s\\n' {shlex.quote(requirement)} > /tmp/sdist.txt
/opt/tools/bin/pip wheel --use-pep517 --no-cache-dir --disable-pip-version-check --no-deps --require-hashes \
--wheel-dir {WHEEL_FOLDER}{more} --requirement /tmp/sdist.txt
SCRIPT
"""
    return _exported(_COMMENTS.sub("", tools) + "\n" + script, "sdist")


def _exported(stages: str, stage: str) -> str:
    return f"{_COMMENTS.sub('', stages)}\n\nFROM scratch AS wheel\nCOPY --from={stage} {WHEEL_FOLDER}/*.whl /\n"
