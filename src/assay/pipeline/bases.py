"""What a matrix says of bases and targets, as the rules of the audit want it."""

from __future__ import annotations

from collections.abc import Iterable

from assay.audit.context import TargetGpu
from assay.audit.gpu import capability_of
from assay.audit.installation import Base
from assay.audit.knowledge import Knowledge
from assay.matrix.model import Base as MatrixBase
from assay.matrix.model import Matrix

__all__ = ["base_of", "gpu_targets"]


def base_of(
    base: MatrixBase,
    name: str,
    packages: Iterable[str],
    knowledge: Knowledge,
    *,
    environment: Iterable[str] | None = None,
) -> Base:
    """Return what a base of matrix.yaml offers, with the packages and the variables that a cell adds."""
    installed = {*packages}
    if base.kind == "bootstrap":
        facts = knowledge.base(base.suite)
        installed |= set(base.packages)
    else:
        facts = knowledge.base(base.image)
    sonames = set(knowledge.sonames.optional_base)
    if base.kind == "registry":
        sonames |= knowledge.sonames.brought_by_image(base.image)
    for package in installed:
        sonames |= set(knowledge.sonames.packages.get(package, ()))
    if base.cuda is not None:
        sonames |= knowledge.toolkit.of(base.cuda) | knowledge.sonames.toolkit_of(base.cuda)
        installed |= {"cuda-toolkit", "gcc", "g++"}
    installed |= knowledge.needs.brought_by(installed)
    return Base(
        name=name,
        glibc=base.glibc,
        glibcxx=facts.glibcxx if facts else None,
        cxxabi=facts.cxxabi if facts else None,
        sonames=frozenset(sonames),
        packages=frozenset(installed),
        environment=None if environment is None else frozenset(environment),
        closed=base.kind == "bootstrap",
    )


def gpu_targets(matrix: Matrix, names: Iterable[str]) -> tuple[TargetGpu, ...]:
    """Return targets of matrix.yaml as the rules want them."""
    return tuple(
        TargetGpu(
            name=name,
            capability=capability_of(matrix.targets[name].compute_capability),
            shared_memory=matrix.targets[name].shared_memory_per_block,
        )
        for name in names
    )
