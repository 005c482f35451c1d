"""The layers that hold no wheel: the environment, the account, the links of a CUDA toolkit. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from assay.errors import ToolError
from assay.matrix.image_steps import FinalStage, Toolkit
from assay.wheels.install import Prefix
from assay.wheels.layer import Entry, file_entry, folder_entry, link_entry
from assay.wheels.stub import stub

__all__ = ["account", "environment", "toolkit"]

_MODES = {"etc/shadow": 0o640, "etc/gshadow": 0o640}
_SHADOW_GID = 42
"""Debian's group `shadow`."""


def environment(prefix: Prefix, python: str) -> list[Entry]:
    """Return the empty environment that `uv venv` makes, but for scripts that activate it in a shell.

    Args:
        prefix: where it lies.
        python: exact version of the base's Python.
    """
    root = prefix.path.strip("/")
    settings = (
        f"home = /usr/bin\nimplementation = CPython\nversion_info = {python}\ninclude-system-site-packages = false\n"
    )
    return [
        folder_entry(root),
        folder_entry(f"{root}/bin"),
        link_entry(f"{root}/bin/python", "/usr/bin/python3"),
        link_entry(f"{root}/bin/python3", "python"),
        link_entry(f"{root}/bin/python{prefix.python}", "python"),
        folder_entry(f"{root}/lib"),
        folder_entry(f"{root}/lib/python{prefix.python}"),
        folder_entry(f"{root}/{prefix.site_packages}"),
        link_entry(f"{root}/lib64", "lib"),
        file_entry(f"{root}/pyvenv.cfg", settings.encode()),
    ]


def account(stage: FinalStage, files: Mapping[str, bytes]) -> list[Entry]:
    """Return what `useradd --create-home` changes: the account's lines and its home folder.

    Args:
        stage: names user, number and shell.
        files: `ACCOUNT_FILES` and `etc/skel/*` of the base.
    """
    user, uid, shell = stage.user, stage.uid, stage.shell
    for line in files.get("etc/passwd", b"").decode(errors="replace").splitlines():
        name, _, number, *_ = [*line.split(":"), "", "", ""]
        if number == str(uid) and name != user:
            raise ToolError(
                f"the base has an account {name!r} with the uid {uid}, which {user!r} needs",
                hint="remove the account in a base of your own; BuildKit fails here too",
            )
    # The day of the last change of a password that nobody has is left out: it would be another one every day.
    lines = {
        "etc/passwd": f"{user}:x:{uid}:{uid}::/home/{user}:{shell}",
        "etc/group": f"{user}:x:{uid}:",
        "etc/shadow": f"{user}:!::0:99999:7:::",
        "etc/gshadow": f"{user}:!::",
        "etc/subuid": f"{user}:{_free(files.get('etc/subuid', b''), user)}:65536",
        "etc/subgid": f"{user}:{_free(files.get('etc/subgid', b''), user)}:65536",
    }
    made = [
        file_entry(
            name, _with_line(files[name], line), mode=_MODES.get(name, 0o644), gid=_SHADOW_GID if name in _MODES else 0
        )
        for name, line in sorted(lines.items())
        if name in files
    ]
    made.append(folder_entry(f"home/{user}", uid=uid, gid=uid))
    made += [
        file_entry(f"home/{user}/{name.removeprefix('etc/skel/')}", data, uid=uid, gid=uid)
        for name, data in sorted(files.items())
        if name.startswith("etc/skel/")
    ]
    return made


def _free(data: bytes, user: str) -> int:
    """Return the first number after all ranges of subordinate ids that others have."""
    ranges = [line.split(":") for line in data.decode(errors="replace").splitlines() if line.count(":") == 2]
    ends = [int(start) + int(count) for name, start, count in ranges if name != user]
    return max([100_000, *ends])


def _with_line(data: bytes, line: str) -> bytes:
    name = re.escape(line.partition(":")[0].encode())
    kept = [one for one in data.splitlines() if not re.match(name + rb":", one)]
    return b"\n".join([*kept, line.encode(), b""])


def toolkit(links: Toolkit, machine: str) -> list[Entry]:
    """Return the links that make a CUDA toolkit of NVIDIA's wheels, and the driver's library as linkers know it.

    Args:
        links: where the wheels lie.
        machine: `x86_64` or `aarch64`.
    """
    made = [folder_entry("opt/cuda")]
    made += [link_entry(f"opt/cuda/{name}", f"{links.wheels}/{name}") for name in ("bin", "include", "nvvm")]
    made.append(folder_entry("opt/cuda/lib64"))
    made += [
        link_entry(f"opt/cuda/lib64/lib{name}.so", f"{links.wheels}/lib/lib{name}.so.13")
        for name in ("cublas", "cublasLt", "cudart", "nvrtc")
    ]
    made.append(folder_entry("opt/cuda/lib64/stubs"))
    made.append(file_entry("opt/cuda/lib64/stubs/libcuda.so", stub("libcuda.so.1", machine), mode=0o755))
    if links.builtins is not None:
        loader = f"usr/lib/{machine}-linux-gnu"
        made.append(link_entry(f"{loader}/{links.builtins}", f"{links.wheels}/lib/{links.builtins}"))
    return made
