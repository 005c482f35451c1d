"""Package indexes in memory, for tests of whatever asks one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from packaging.utils import canonicalize_name

from assay.errors import PackageIndexError
from assay.ports.index import IndexFile, origin_of

__all__ = ["FakeIndex"]


class FakeIndex:
    """Satisfies `assay.ports.index.PackageIndex`.

    Args:
        files: name of an index -> its files; an index that is not named is `pypi`.
        dead: names of indexes that do not answer.
    """

    def __init__(self, files: Mapping[str, Iterable[IndexFile]], *, dead: Iterable[str] = ()) -> None:
        self._files = {name: tuple(listed) for name, listed in files.items()}
        self.dead = set(dead)
        self._answered: dict[tuple[str, str], tuple[IndexFile, ...]] = {}

    @classmethod
    def of(cls, *names: str, yanked: Iterable[str] = ()) -> FakeIndex:
        """Return an index whose `pypi` has files of these names, without hashes."""
        return cls(
            {
                "pypi": [
                    IndexFile(
                        project=str(canonicalize_name(name.split("-")[0])),
                        filename=name,
                        url=f"https://pypi.example/files/{name}",
                        yanked=name in set(yanked),
                    )
                    for name in names
                ]
            }
        )

    def files(self, project: str, *, index: str = "pypi") -> tuple[IndexFile, ...]:
        """Return the files of a project; see the port. What was answered once stays so."""
        name = str(canonicalize_name(project))
        if (index, name) not in self._answered:
            if index in self.dead:
                raise PackageIndexError(f"{index} does not answer", hint="check the network and the index address")
            listed: dict[tuple[str, str | None], IndexFile] = {}
            for file in self._files.get(index, self._files.get("pypi", ())):
                if file.project == name:
                    found = file.model_copy(update={"announced_by": self._address(index)})
                    listed.setdefault((file.filename, file.sha256), found)
            self._answered[index, name] = tuple(listed.values())
        return self._answered[index, name]

    def origins(self, index: str | None = None) -> frozenset[str]:
        """Return the origins that files can have; see the port."""
        names = [*self._files, "pypi"] if index is None else [index]
        return frozenset(origin_of(self._address(name)) for name in names)

    def _address(self, index: str) -> str:
        return f"https://{index if index in self._files else 'pypi'}.example/simple"
