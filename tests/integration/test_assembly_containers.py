"""Two machines assemble the same bytes: containers with other users, umasks, zones, folders, and another Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Final

import pytest
from assembly_tools import MINOR, ROOT, AssemblyProject, simple_index
from base_image import Bootstrapped
from wheels import serving, wheel_bytes

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

WHEELS: Final = {
    "demo-1.0-py3-none-any.whl": wheel_bytes(
        "demo",
        "1.0",
        {
            "demo/__init__.py": b"x = 1\n" * 2000,
            "demo/sets.py": b"y = {'a', 'b', 'c'}\nif 'x' in {'p', 'q', 'r'}:\n    z = frozenset((1, 2))\n",
            "demo/data.bin": bytes(range(256)) * 5000,
            "demo-1.0.dist-info/entry_points.txt": b"[console_scripts]\ndemo = demo:main\n",
        },
    ),
    "other-1.0-py3-none-any.whl": wheel_bytes("other", "1.0", {"other.py": "é = 'ß'\n".encode()}),
}
USER: Final = 4242


def in_container(image: str, project: AssemblyProject, python: str, *, user: int, umask: str, **more: str) -> object:
    """Assemble in a container; return the document of the image."""
    environment = {**project.environment(), **more}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), sysconfig.get_path("purelib")])
    names = ("PYTHONPATH", "HOME", "ASSAY_CACHE", "ASSAY_LAYERS", "DOCKER_CONFIG", *more)
    mounts = {str(ROOT), sys.prefix, sys.base_prefix}
    # Where the Python of the tests lies, others may not look into by default.
    folders = {folder for prefix in mounts for folder in list(Path(prefix).parents)[:-1]}
    # What is mounted is read-only, and so is what lies in it: the environment of a checkout.
    way = " ".join(sorted(str(one) for one in folders if not any(one.is_relative_to(mount) for mount in mounts)))
    script = (
        f"chmod a+x / {way} && chown -R {user}:{user} {project.root} && umask {umask}"
        f" && mkdir -p {environment.get('TMPDIR', '/tmp')} && chmod 1777 {environment.get('TMPDIR', '/tmp')}"
        f' && cd {project.root} && exec setpriv --reuid={user} --regid={user} --clear-groups "$@"'
    )
    command = ["docker", "run", "--rm", "--network=host", "--entrypoint=sh"]
    command += [f"--volume={path}:{path}:ro" for path in mounts] + [f"--volume={project.root}:{project.root}"]
    command += [word for name in names for word in ("--env", f"{name}={environment[name]}")]
    command += [image, "-c", script, "sh", python, "-m", "assay", "assemble", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (said,) = json.loads(done.stdout)["images"]
    return {**said, "seconds": 0}


def test_two_containers_make_the_same_layers(bootstrapped: Bootstrapped, tmp_path: Path) -> None:
    with serving() as (server, host):
        server.files.update(simple_index(WHEELS))
        project = AssemblyProject(root=tmp_path / "one", index=f"{host}/simple", wheels=WHEELS)
        # The template is a link to the checkout; the folder is the same in both containers, and is mounted.
        shutil.copytree(project.root, tmp_path / "template", symlinks=True)
        own = "/usr/bin/python3.11"
        pythons = (sys.executable, own if MINOR == "3.11" else sys.executable)
        first = in_container(bootstrapped.base.reference, project, pythons[0], user=0, umask="022", TZ="UTC")
        shutil.rmtree(project.root)
        (tmp_path / "template").rename(project.root)
        second = in_container(
            bootstrapped.base.reference, project, pythons[1], user=USER, umask="077",
            TZ="Pacific/Kiritimati", LC_ALL="C", PYTHONHASHSEED="77", TMPDIR="/var/elsewhere",
        )  # fmt: skip
        made = project.layers / "blobs" / "sha256"

        assert first == second
        assert {path.stat().st_uid for path in made.iterdir()} == {USER}
