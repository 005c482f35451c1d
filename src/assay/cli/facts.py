"""`assay facts`: manage cached wheel facts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from assay.cli import console
from assay.cli.common import format_option
from assay.cli.index_composition import where_to_look
from assay.cli.registry_composition import registry_client
from assay.cli.trust import insecure_option
from assay.cli.wheels import index_option, wheel_of
from assay.errors import StoreError, UsageError

if TYPE_CHECKING:
    from assay.adapters.files.facts_cache import FactsCache
    from assay.wheels.facts import WheelFacts

__all__ = ["command"]

_EXPORT: Final = 1 << 30
"""Bytes of a file with exported facts."""

facts_option = click.option(
    "--facts", type=click.Path(path_type=Path, file_okay=False), help="Folder of cached wheel facts."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Manage cached wheel facts.

    Facts are names and numbers that assay reads from a wheel once: symbols, dependencies, GPU code per architecture.
    They contain no code. Share them so that others need not download the wheels.
    """


@command.command("list")
@facts_option
@format_option("table", "json")
def list_facts(facts: Path | None, form: str) -> int:
    """List the wheels with cached facts."""
    from assay.adapters.files.facts_cache import FactsCache

    rows = FactsCache(facts).listed()
    if form == "json":
        from assay.pipeline.documents import CachedWheel, FactsListDocument

        wheels = (CachedWheel(name=n, version=v, sha256=s, bytes=b) for n, v, s, b in rows)
        console.document(FactsListDocument(wheels=tuple(wheels)))
    else:
        console.data_table(
            ["distribution", "version", "sha256", "bytes"], [[n, v, s[:16], str(b)] for n, v, s, b in rows]
        )
    return 0


@command.command("read")
@click.argument("wheels", nargs=-1, required=True, metavar="WHEEL|URL|NAME==VERSION...")
@click.option("--python", default="3.12", show_default=True, help="Python to choose wheels for.")
@index_option
@facts_option
def read_facts(wheels: Sequence[str], python: str, indexes: Sequence[str], facts: Path | None) -> int:
    """Read whole wheels and cache their facts; refuse a wrong sha256."""
    from assay.cli.audit_composition import make_auditor, progress

    auditor, index = make_auditor({}, facts=facts, tell=progress()), where_to_look(indexes)
    for word in wheels:
        got = auditor.read(wheel_of(word, python, index), whole=True)
        console.say(f"{got.name} {got.version}: {len(got.libraries)} libraries")
    return 0


@command.command("show")
@click.argument("wheel", metavar="NAME==VERSION|SHA256")
@facts_option
@format_option("text", "json")
def show_facts(wheel: str, facts: Path | None, form: str) -> int:
    """Show the facts of a wheel."""
    from assay.adapters.files.facts_cache import FactsCache
    from assay.audit.gpu import spelled

    chosen = _chosen(FactsCache(facts), [wheel])
    if form == "json" and len(chosen) > 1:
        several = ", ".join(f"{one.sha256[:12]} ({one.filename})" for one in chosen)
        raise UsageError(f"{wheel} names {len(chosen)} wheels, but JSON shows only one", hint=f"name one: {several}")
    for found in chosen:
        if form == "json":
            from assay.pipeline.documents import FactsDocument

            console.document(FactsDocument.model_construct(**dict(found)), sparse=True)
            continue
        console.paragraphs(f"{found.filename}  sha256:{found.sha256}  {_state(found)}")
        for line in found.requires_dist:
            console.paragraphs(f"  requires {line}")
        if found.cubins:
            console.paragraphs(
                f"  cubins: {' '.join(f'sm_{target} ({count})' for target, count in found.cubins.items())}"
            )
        for library in found.libraries:
            console.paragraphs(f"  {library.path} ({library.size} bytes, {library.scope})")
            if library.problem:
                console.paragraphs(f"    could not be read: {library.problem}")
            if library.needed:
                console.paragraphs(f"    needs {' '.join(library.needed)}")
            if library.scope != "listed":
                console.paragraphs(f"    exports {len(library.exports)}, imports {len(library.references)} symbols")
            for file, versions in library.requires.items():
                console.paragraphs(f"    of {file}: {' '.join(versions)}")
            for group in library.gpu.groups if library.gpu else ():
                targets = " ".join([*(f"sm_{item}" for item in group.sass), *(f"ptx {item}" for item in group.ptx)])
                console.paragraphs(f"    {group.containers} containers: {targets}")
            if library.gpu:
                console.paragraphs(f"    GPU code: {' '.join(spelled(library.gpu))}")
    return 0


@command.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("wheels", nargs=-1, metavar="[NAME[==VERSION]|SHA256]...")
@facts_option
def export_facts(file: Path, wheels: Sequence[str], facts: Path | None) -> int:
    """Write cached facts to a file. Without names, write the facts of all wheels."""
    from assay.adapters.files.facts_cache import FactsCache

    cache = FactsCache(facts)
    chosen = [found.sha256 for found in _chosen(cache, wheels)] if wheels else [row[2] for row in cache.listed()]
    try:
        file.write_bytes(b"".join(cache.export(chosen)))
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror}") from error
    console.say(f"{len(chosen)} wheels in {file}, {file.stat().st_size} bytes")
    return 0


@command.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@facts_option
def import_facts(files: Sequence[Path], facts: Path | None) -> int:
    """Import facts from files; complete facts replace partial ones."""
    from assay.adapters.files.facts_cache import FactsCache
    from assay.adapters.files.regular import read_regular

    cache = FactsCache(facts)
    for file in files:
        console.say(f"{cache.take(read_regular(file, limit=_EXPORT), source=file.name)} wheels from {file}")
    return 0


@command.command("push", short_help="Push facts to a registry.")
@click.argument("reference", metavar="REF")
@click.argument("wheels", nargs=-1, metavar="[NAME[==VERSION]|SHA256]...")
@insecure_option
@facts_option
def push(reference: str, wheels: Sequence[str], insecure: Sequence[str], facts: Path | None) -> int:
    """Push facts and the catalogue of layers to a registry. Without names, push all complete facts."""
    from assay.adapters.files.facts_cache import FactsCache
    from assay.cli.composition import layer_store
    from assay.evidence.reference import Reference
    from assay.pipeline.share_facts import push_facts

    cache = FactsCache(facts)
    chosen = _chosen(cache, wheels or [row[2] for row in cache.listed()])
    done = push_facts(registry_client(insecure), Reference.parse(reference), chosen, layer_store())
    console.say(f"{len(done.moved)} wheels pushed to {reference}, {done.known} were there: {done.digest}")
    return 0


@command.command("pull", short_help="Pull missing facts from a registry.")
@click.argument("reference", metavar="REF")
@click.argument("wheels", nargs=-1, metavar="[NAME[==VERSION]]...")
@insecure_option
@facts_option
def pull(reference: str, wheels: Sequence[str], insecure: Sequence[str], facts: Path | None) -> int:
    """Pull missing facts and the catalogue of layers from a registry. Without names, pull the facts of all wheels.

    Audits trust these facts: pull only from a registry whose writers you trust. From the catalogue, `assay build
    --dry-run` and `assay report` know the digest that an image will have; it is never used to make an image.
    """
    from packaging.utils import canonicalize_name

    from assay.adapters.files.facts_cache import FactsCache
    from assay.cli.composition import layer_store
    from assay.evidence.reference import Reference
    from assay.pipeline.share_facts import pull_catalogue, pull_facts

    asked = [(canonicalize_name(name), version) for name, _, version in (word.partition("==") for word in wheels)]

    def wanted(title: str) -> bool:
        return not asked or any(
            title == f"{name}-{version}.facts.json.gz" if version else re.match(rf"{re.escape(name)}-\d", title)
            for name, version in asked
        )

    registry, place = registry_client(insecure), Reference.parse(reference)
    done = pull_facts(registry, place, FactsCache(facts), wanted=wanted)
    new, other = pull_catalogue(registry, place, layer_store())
    console.say(f"{len(done.moved)} wheels pulled from {reference}, {done.known} were cached; {new} layers are new")
    if other:
        console.warn(
            f"{other} layers have other bytes on this machine: `assay verify --rebuild` tells which image differs"
        )
    for name in done.moved:
        console.say(f"  {name}")
    return 0


@command.command("history", short_help="Write the table of torch's exports.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@facts_option
def history(file: Path, facts: Path | None) -> int:
    """Write the table of torch's exports (knowledge/torch_exports.bin) from the complete facts of torch."""
    from packaging.version import Version

    from assay.adapters.files.facts_cache import FactsCache
    from assay.audit.history import TorchHistory

    exports: dict[str, tuple[str, set[str]]] = {}
    cache = FactsCache(facts)
    kept = [row[2] for row in cache.listed() if row[0] == "torch"]
    torches = [found for sha256 in kept if (found := cache.whole(sha256)) is not None and found.complete]
    for found in sorted(torches, key=lambda item: Version(item.version)):
        names = {
            name
            for library in found.libraries
            if library.path.startswith("torch/lib/") and (library.soname or "").startswith(("libtorch", "libc10"))
            for name in library.exports
        }
        version = Version(found.version).public
        known = exports.setdefault(version, (found.cuda or "", set()))
        known[1].update(names)
    if not exports:
        raise UsageError("no complete facts of torch are kept", hint="assay facts read torch==VERSION")
    data = TorchHistory.build(exports).dump()
    file.write_bytes(data)
    console.say(f"{len(exports)} releases in {file}, {len(data)} bytes: {', '.join(exports)}")
    return 0


def _state(found: WheelFacts) -> str:
    return "complete" if found.complete else f"read in part from {found.origin or 'an unknown place'}"


def _chosen(cache: FactsCache, words: Sequence[str]) -> list[WheelFacts]:
    from packaging.utils import canonicalize_name

    found: list[WheelFacts] = []
    rows = cache.listed()
    for word in words:
        name, _, version = word.partition("==")
        name = canonicalize_name(name)
        hits = [
            sha256
            for own, own_version, sha256, _ in rows
            if sha256.startswith(word) or (own == name and version in {"", own_version})
        ]
        if not hits:
            raise UsageError(f"no facts of {word} are cached", hint=f"assay facts read {word}")
        found += [facts for sha256 in hits if (facts := cache.whole(sha256)) is not None]
    return found
