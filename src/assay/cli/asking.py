"""A question about wheels: what was not said is taken from the wheels themselves, and said to have been."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeVar

from assay.cli.wheels import wheel_of
from assay.errors import PackageIndexError

if TYPE_CHECKING:
    from assay.audit.context import TargetGpu
    from assay.audit.findings import AuditReport
    from assay.audit.installation import Base
    from assay.audit.requirements import WantedPackage
    from assay.pipeline.audit import Auditor
    from assay.pipeline.obtain import Obtained
    from assay.ports.index import IndexFile, PackageIndex
    from assay.wheels.facts import WheelFacts

__all__ = ["Asker", "Question"]

T = TypeVar("T")
_FEW: Final = 4
"""Requirements of a wheel without libraries that are read too; one with more of them is not a meta package."""
_MINORS: Final = 4
"""How many newer Pythons are tried where torch has no wheel for the oldest that a wheel admits."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Wheels, and the given facts about the environment that they are loaded in."""

    words: tuple[str, ...]
    """The wheels it is about: files, addresses, requirements."""
    others: tuple[str, ...] = ()
    """What else is installed."""
    torch: str | None = None
    python: str | None = None
    machine: str | None = None
    targets: tuple[TargetGpu, ...] = ()


@dataclass
class _Set:
    """What an answer is about, as it grows."""

    machine: str
    python: str
    obtained: list[Obtained] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    assumed: list[str] = field(default_factory=list)

    @property
    def wheels(self) -> tuple[WheelFacts, ...]:
        return tuple(item.facts for item in self.obtained)

    @property
    def names(self) -> set[str]:
        return {wheel.name for wheel in self.wheels}

    def take_python(self, python: str) -> None:
        """Take another Python than the wheels say."""
        self.assumed = [line for line in self.assumed if not line.startswith("Python ")]
        self.assumed.append(f"Python {python}, the oldest that both have a wheel for")
        self.python = python

    def about(self) -> Iterator[WheelFacts]:
        return (wheel for wheel in self.wheels if wheel.name in self.asked)


class Asker:
    """Answers questions about wheels.

    Args:
        auditor: reads and judges.
        index: where requirements are looked up.
        base: what is there before any wheel is.
        whole: read all of the wheels asked about, also where nothing shows that they have GPU code.
    """

    def __init__(self, auditor: Auditor, index: PackageIndex, base: Base, *, whole: bool = False) -> None:
        self._auditor = auditor
        self._index = index
        self._base = base
        self._whole = whole

    def answer(self, question: Question) -> AuditReport:
        """Return what would become of the wheels.

        Raises:
            UsageError: a word means no wheel.
            PackageIndexError, WheelError: one is not there, or cannot be read.
        """
        from assay.audit.installation import Installation
        from assay.audit.promised import promised
        from assay.pipeline.wheel_choice import distribution_of

        here = self._wheels(question)
        # Nothing beside a wheel for another system makes it fit, and all of it would have to be read.
        if all(_fits(wheel, here.machine) for wheel in here.about()):
            self._required(here)
            if question.python is None:
                self._python_of(here, question.others)
            if question.torch is not None:
                self._torch(here, f"torch=={question.torch}", fixed=question.python is not None)
            elif not any(distribution_of(word) == "torch" for word in question.others):
                self._own_torch(here, fixed=question.python is not None)
            for word in question.others:
                self._add(here, word)
        brought = promised(here.wheels, self._auditor.knowledge, python=here.python, machine=here.machine)
        installation = Installation(
            wheels=here.wheels,
            python=here.python,
            base=replace(self._base, sonames=self._base.sonames | brought),
            complete=False,
            machine=here.machine,
            asked=frozenset(here.asked),
        )
        name = " + ".join(f"{wheel.name} {wheel.version}" for wheel in here.wheels)
        report = self._auditor.installation(installation, here.obtained, question.targets, name=name)
        return report.model_copy(update={"assumed": (*here.assumed, *_left_out(here))})

    def _add(self, here: _Set, word: str) -> WheelFacts:
        from assay.pipeline.obtain import Obtained

        file = wheel_of(word, here.python, self._index, here.machine)
        facts = self._facts(file)
        here.obtained.append(Obtained(facts=facts, file=file))
        return facts

    def _facts(self, file: IndexFile, *, whole: bool = False) -> WheelFacts:
        facts = self._auditor.read(file, whole=whole)
        # Facts are kept by what a file holds; what it is for, it says by the name that it has here.
        return facts if facts.filename == file.filename else facts.model_copy(update={"filename": file.filename})

    def _wheels(self, question: Question) -> _Set:
        """Read the wheels a question is about; they say for which Python and machine, where nobody else does."""
        from assay.pipeline.obtain import Obtained
        from assay.pipeline.wheel_choice import PYTHON
        from assay.wheels.tags import platform_of, python_of

        named = (platform_of(word.partition("#")[0].rpartition("/")[2]) for word in question.words)
        machine = question.machine or next((one for one in named if one), "x86_64")
        here = _Set(machine=machine, python=question.python or PYTHON)
        pythons: list[tuple[str, str]] = []
        for word in question.words:
            file = wheel_of(word, question.python, self._index, machine)
            facts = self._facts(file, whole=self._whole)
            here.obtained.append(Obtained(facts=facts, file=file))
            here.asked.add(facts.name)
            said = python_of(file.filename, facts.requires_python or file.requires_python)
            pythons += [(said, file.filename)] if said else []
        if question.python is None and pythons:
            here.python = pythons[0][0]
            if here.python != PYTHON:
                here.assumed.append(f"Python {here.python}, as {pythons[0][1]} says")
        return here

    def _required(self, here: _Set) -> None:
        """Add what wheels without libraries require, one level deep: they are judged by what they bring."""
        from assay.pipeline.obtain import Obtained
        from assay.pipeline.wheel_choice import choose_wheel

        for wheel in list(here.about()):
            wanted = _open(here, wheel)
            if wheel.libraries or not wanted or len(wanted) > _FEW:
                continue
            for one in wanted:
                try:
                    file = choose_wheel(
                        f"{one.name}{one.specifier}", here.python, self._index, here.machine, any_version=True
                    )
                    facts = self._facts(file)
                except PackageIndexError as error:
                    here.assumed.append(f"not judged: {one.name}, which {wheel.name} requires: {error.message}")
                    continue
                if facts.libraries:
                    here.obtained.append(Obtained(facts=facts, file=file))
                    here.asked.add(facts.name)
                    here.assumed.append(f"judged with {facts.name} {facts.version}, which {wheel.name} requires")

    def _python_of(self, here: _Set, others: Sequence[str]) -> None:
        """Take a newer Python where what is beside the wheels has no file for the oldest that these admit."""
        minor = int(here.python.partition(".")[2])
        pythons = [f"3.{minor + step}" for step in range(_MINORS)]
        for word in others:

            def found(python: str, word: str = word) -> str:
                wheel_of(word, python, self._index, here.machine)
                return python

            pythons = pythons[pythons.index(_first(found, pythons)) :]
        if pythons[0] != here.python:
            here.take_python(pythons[0])

    def _own_torch(self, here: _Set, *, fixed: bool) -> None:
        """Add the torch that the wheels ask for, if any does; see `_torch`."""
        found = None if "torch" in here.names else _torch_wanted(here, self._base, self._auditor)
        if found is not None:
            word, why = found
            facts = self._torch(here, word, fixed=fixed)
            here.assumed.append(f"torch {facts.version}: {why}")

    def _torch(self, here: _Set, word: str, *, fixed: bool) -> WheelFacts:
        """Add a torch.

        Args:
            here: what there is so far.
            word: a requirement on torch.
            fixed: somebody said which Python; else a newer one is taken where torch has no wheel for this.
        """
        from assay.pipeline.obtain import Obtained
        from assay.pipeline.wheel_choice import choose_wheel
        from assay.wheels.tags import python_of

        minor = int(here.python.partition(".")[2])
        pythons = [here.python] if fixed else [f"3.{minor + step}" for step in range(_MINORS)]
        file = _first(lambda python: choose_wheel(word, python, self._index, here.machine, any_version=True), pythons)
        python = python_of(file.filename) or here.python
        if python != here.python:
            here.take_python(python)
        facts = self._facts(file)
        here.obtained.append(Obtained(facts=facts, file=file))
        return facts


def _fits(wheel: WheelFacts, machine: str) -> bool:
    from assay.wheels.tags import fits_platform, tags_of

    tags = tags_of(wheel.filename)
    return not tags or any(fits_platform(tag.platform, machine) for tag in tags)


def _first(choose: Callable[[str], T], pythons: Iterable[str]) -> T:
    """Return what is found for the first Python for which anything is."""
    failed: PackageIndexError | None = None
    for python in pythons:
        try:
            return choose(python)
        except PackageIndexError as error:
            failed = failed or error
    assert failed is not None
    raise failed


def _torch_wanted(here: _Set, base: Base, auditor: Auditor) -> tuple[str, str] | None:
    """Return the requirement on torch that wheels have, and why: in their metadata, else by their symbols."""
    from assay.audit.context import Context
    from assay.audit.installation import Installation
    from assay.audit.requirements import requirements_of
    from assay.audit.torch_fit import built_for

    about = list(here.about())
    for wheel in about:
        for one in requirements_of(wheel, here.python, here.machine):
            if one.name == "torch":
                return f"torch{one.specifier}", f"{wheel.name} {wheel.version} requires torch{one.specifier}"
    installation = Installation(wheels=tuple(about), python=here.python, base=base, complete=False)
    context = Context(installation=installation, knowledge=auditor.knowledge)
    for wheel in about:
        minors = built_for(context, wheel) if wheel.torch_names else ()
        if minors:
            return f"torch=={minors[-1]}.*", f"by its symbols {wheel.name} was built for torch {' or '.join(minors)}"
    return None


def _open(here: _Set, wheel: WheelFacts) -> list[WantedPackage]:
    """Return what a wheel requires that is not there; torch and NVIDIA's libraries have their own way."""
    from assay.audit.requirements import requirements_of

    return [
        one
        for one in requirements_of(wheel, here.python, here.machine)
        if one.name not in here.names | {"torch", "cuda-toolkit"} and not one.name.startswith("nvidia-")
    ]


def _left_out(here: _Set) -> Iterator[str]:
    wanted = {one.name: wheel.name for wheel in here.about() if wheel.libraries for one in _open(here, wheel)}
    wanted |= {one.name: wheel.name for wheel in here.about() for one in _open(here, wheel)[_FEW:]}
    if wanted:
        verb = "requires" if len(set(wanted.values())) == 1 else "require"
        by = " and ".join(dict.fromkeys(wanted.values()))
        yield f"not judged: {_some(sorted(wanted))}, which {by} {verb} (name them with --with)"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"
