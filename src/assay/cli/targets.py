"""GPUs and platforms on the command line: product names, architectures, and the card of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli import console

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from assay.audit.context import TargetGpu
    from assay.foundation.platforms import Platform
    from assay.matrix.cards import Named
    from assay.matrix.model import Matrix

__all__ = [
    "GPU",
    "PLATFORM",
    "beside",
    "comma_parts",
    "fitting_gpus",
    "gpu_of",
    "gpus_by_machine",
    "gpus_of",
    "local_gpus",
    "platforms_of",
    "platforms_of_target",
    "platforms_told",
    "system_share",
]


if TYPE_CHECKING:
    _Type = click.ParamType[str]
else:
    _Type = click.ParamType


class _Gpu(_Type):
    """A GPU by any of its names; its value is `sm_120`."""

    name = "gpu"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the GPUs that begin so."""
        from click.shell_completion import CompletionItem

        from assay.cli.completing import gpus

        return [CompletionItem(name) for name in gpus(ctx, param, incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the architecture.

        Raises:
            UsageError: there is none of this name.
        """
        from assay.adapters.files.card_names import load_cards

        return load_cards().find(str(value)).target if value else ""


GPU = _Gpu()


class _Platform(_Type):
    """A platform by any of its names; its value is `linux/arm64`."""

    name = "platform"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Return the platform.

        Raises:
            UsageError: there is none of this name.
        """
        from assay.errors import UsageError
        from assay.foundation.platforms import Platform

        try:
            return Platform.of(str(value))
        except ValueError as error:
            raise UsageError(str(error)) from error


PLATFORM = _Platform()


def beside(target: str) -> str:
    """Return an architecture with the cards that have it, for people: `sm_120 (RTX 50, RTX PRO Blackwell)`."""
    from assay.adapters.files.card_names import load_cards

    title = load_cards().title(target)
    return f"{target} ({title})" if title else target


def platforms_of_target(target: str) -> tuple[Platform, ...]:
    """Return the platforms of machines with GPUs of an architecture, `sm_121`; empty if none is known."""
    digits = target.removeprefix("sm_")
    return platforms_of(f"{digits[:-1]}.{digits[-1]}")


def platforms_of(capability: str) -> tuple[Platform, ...]:
    """Return the platforms of machines with GPUs of a compute capability, `12.1`; empty if none is known."""
    from assay.adapters.files.card_names import load_cards

    return load_cards().platforms(capability)


def fitting_gpus(gpus: Iterable[TargetGpu], platform: Platform) -> list[TargetGpu]:
    """Return the GPUs whose machines have a platform, or may have it."""
    return [gpu for gpu in gpus if platform in (platforms_of_target(gpu.name) or (platform,))]


def platforms_told(gpus: Iterable[TargetGpu]) -> str:
    """Return the platforms of GPUs in words: `sm_121 comes with linux/arm64`."""
    return " and ".join(f"{gpu.name} comes with {', '.join(platforms_of_target(gpu.name))}" for gpu in gpus)


def system_share(target: str) -> float:
    """Return the part of a card's memory that stays the system's; 0 unless CPU and GPU have one memory."""
    from assay.adapters.files.card_names import load_cards

    return load_cards().system_share(target)


def gpu_names() -> set[str]:
    """Return the names of products and architectures that are known."""
    from assay.adapters.files.card_names import load_cards
    from assay.matrix.cards import sm

    known = load_cards()
    return {*known.cards, *map(sm, known.architectures)}


def local_gpus() -> tuple[Named, ...]:
    """Return the GPUs of this machine, each architecture once, and say which; none where there are none."""
    from assay.cli.host_composition import host_gpus
    from assay.matrix.cards import Named, sm

    if shutil.which("nvidia-smi") is None:
        return ()
    found: dict[str, Named] = {}
    for gpu in host_gpus():
        target = sm(gpu.capability)
        found.setdefault(target, Named(target=target, title=gpu.name.removeprefix("NVIDIA "), platform=None))
    if found:
        console.say(
            "for the GPU of this machine: " + ", ".join(f"{one.title} ({one.target})" for one in found.values())
        )
    return tuple(found.values())


def comma_parts(values: Sequence[str]) -> Iterator[str]:
    """Yield what stands between commas in the values of an option."""
    return (part.strip() for value in values for part in value.split(",") if part.strip())


def gpus_of(
    names: Sequence[str], root: Path | None, matrix: Matrix | None, driver_cuda: str | None
) -> tuple[tuple[Named, TargetGpu], ...]:
    """Return the GPUs that names mean, each once; a target of the matrix may have a name of its own.

    Raises:
        UsageError: nothing of that name is known.
    """
    from assay.adapters.files.card_names import load_cards
    from assay.matrix.cards import Named

    cards = load_cards(root)
    found: dict[tuple[str, str, str | None], tuple[Named, TargetGpu]] = {}
    for name in comma_parts(names):
        if matrix is not None and name in matrix.targets and not cards.title(name):
            named = Named(target=name, title=matrix.targets[name].name, platform=None)
        else:
            named = cards.find(name)
        found.setdefault((named.target, named.title, named.platform), (named, gpu_of(named, matrix, driver_cuda)))
    return tuple(found.values())


def gpu_of(named: Named, matrix: Matrix | None, driver_cuda: str | None) -> TargetGpu:
    """Return a GPU as the rules of the audit take it."""
    from assay.audit.context import TargetGpu
    from assay.audit.gpu import capability_of
    from assay.pipeline.bases import gpu_targets

    if matrix is not None and named.target in matrix.targets:
        (gpu,) = gpu_targets(matrix, [named.target])
        return replace(gpu, driver_cuda=driver_cuda, title=named.title)
    capability = capability_of(named.target)
    return TargetGpu(name=named.target, capability=capability, driver_cuda=driver_cuda, title=named.title)


def gpus_by_machine(capabilities: Sequence[str]) -> dict[str, tuple[TargetGpu, ...]]:
    """Return platform (`x86_64`) -> those GPUs, of some compute capabilities (`12.0`), that its machines have."""
    from assay.adapters.files.card_names import load_cards
    from assay.audit.context import TargetGpu
    from assay.audit.gpu import capability_of
    from assay.foundation.platforms import Platform

    cards = load_cards()
    found: dict[str, tuple[TargetGpu, ...]] = {}
    for platform in Platform:
        there = [one for one in capabilities if platform in cards.platforms(one)]
        found[platform.machine] = tuple(
            TargetGpu(name=f"sm_{capability_of(one)}", capability=capability_of(one)) for one in there
        )
    return found
