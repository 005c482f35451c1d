# ruff: noqa: INP001
"""Writes knowledge/cuda_toolkit.yaml: `python tools/toolkit_libraries.py > knowledge/cuda_toolkit.yaml`.

What a CUDA toolkit consists of, `cuda-toolkit[all]` on the package index says, release by release; the names of the
libraries are those of the files in these wheels. A few kilobytes of each are read.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.version import Version

from assay.adapters.index.simple import SimpleIndex, WebWheels
from assay.errors import PackageIndexError
from assay.pipeline.read_wheel import Depth, read_wheel
from assay.pipeline.wheel_choice import choose_wheel
from assay.wheels.facts import WheelFacts

MACHINES = ("x86_64", "aarch64")
SINCE = Version("12.0")
SONAME = re.compile(r"lib[\w+-]+\.so\.\d[\d.]*")


def releases(index: SimpleIndex) -> dict[str, Version]:
    """Return each minor release of the toolkit -> its newest version."""
    found: dict[str, Version] = {}
    for file in index.files("cuda-toolkit"):
        if file.filename.endswith(".whl"):
            version = Version(file.filename.split("-")[1])
            if version >= SINCE:
                minor = f"{version.major}.{version.minor}"
                found[minor] = max(version, found.get(minor, version))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def parts(toolkit: WheelFacts) -> Iterator[str]:
    """Yield the requirements of all of a toolkit on Linux."""
    for line in toolkit.requires_dist:
        wanted = Requirement(line)
        if wanted.marker is not None and any(
            wanted.marker.evaluate({"extra": "all", "sys_platform": "linux", "platform_machine": machine})
            for machine in MACHINES
        ):
            yield f"{wanted.name}{wanted.specifier}"


def libraries(word: str, index: SimpleIndex, wheels: WebWheels) -> Iterator[tuple[str, str]]:
    """Yield the soname of each library of a distribution, and its name."""
    for machine in MACHINES:
        try:
            file = choose_wheel(word, "3.12", index, machine, any_version=True)
        except PackageIndexError as error:
            # Older releases are there for x86_64 alone, and cuDLA for aarch64.
            print(f"{machine}: {error.message}", file=sys.stderr)
            continue
        for library in read_wheel(file, wheels, depth=Depth.METADATA).libraries:
            if "stubs" not in library.path.split("/") and SONAME.fullmatch(library.name):
                yield library.name, file.project


def main() -> None:
    """Print the file."""
    index, wheels = SimpleIndex({}), WebWheels()
    found: dict[tuple[str, str], list[str]] = {}
    every = releases(index)
    for minor, version in every.items():
        toolkit = read_wheel(choose_wheel(f"cuda-toolkit=={version}", "3.12", index), wheels, depth=Depth.METADATA)
        for pair in sorted({pair for word in parts(toolkit) for pair in libraries(word, index, wheels)}):
            found.setdefault(pair, []).append(minor)
    print("# The libraries of the CUDA toolkit: which distribution on the package index brings each, and the first")
    print("# and the last release of the toolkit that has it. Written by tools/toolkit_libraries.py from what")
    print("# cuda-toolkit[all] of each release requires; used by `assay audit` for bases with a toolkit and for hints.")
    print('version: "1"')
    print(f"source: the wheels that cuda-toolkit[all] {', '.join(map(str, every.values()))} requires on Linux")
    print(f"date: {dt.datetime.now(dt.UTC).date()}")
    print("libraries:")
    for (soname, name), minors in sorted(found.items()):
        print(f'  - {{soname: {soname}, wheel: {name}, since: "{minors[0]}", until: "{minors[-1]}"}}')


if __name__ == "__main__":
    main()
