"""What serve-check, bench and launch share: profiles, places, flags from the command line."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import click

from assay import resources
from assay.cli import console
from assay.cli.common import load_or_example
from assay.errors import NothingSelected, UsageError
from assay.foundation.nearest import suggestion

if TYPE_CHECKING:
    from assay.engines.knowledge import Flags, ServerFlags
    from assay.matrix.cell import Cell
    from assay.pipeline.serve_check import ServeRequest
    from assay.ports.engine import Bind
    from assay.ports.models import ModelFinder
    from assay.ports.server import ServerJob
    from assay.serving.profile import Profile

__all__ = [
    "ServerPlace",
    "extra_env",
    "extra_flags",
    "job_in",
    "mount",
    "named_model",
    "owner_of",
    "place_options",
    "profile_named",
    "profiles_for",
    "resolve_place",
    "serve_request",
]

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class ServerPlace:
    """What IMAGE on the command line means."""

    root: Path
    cell: str
    """Cell id, image reference, or `local`."""
    image: str
    """The recipe, or empty."""
    reference: str
    """What the engine holds; `local` for this machine's Python environment."""
    engine: str
    knowledge: ServerFlags

    @property
    def local(self) -> bool:
        """Whether servers run without a container."""
        return self.reference == "local"


def place_options(function: F) -> F:
    """Add the options that say where a server runs."""
    from assay.engines.names import engine_names

    options = [
        click.option(
            "--engine", type=click.Choice(engine_names()), help="Serving engine.  [default: detected from IMAGE]"
        ),
        click.option("--model", help="Model on the Hugging Face Hub, or a folder; overrides the profile."),
        click.option("--set", "sets", multiple=True, metavar="FLAG[=VALUE]", help="Add a server flag (repeatable)."),
        click.option(
            "--env",
            "envs",
            multiple=True,
            metavar="NAME=VALUE",
            help="Set an environment variable of the server (repeatable).",
        ),
        click.option("--program", metavar="COMMAND", help="Command that starts the server.  [default: the engine's]"),
        click.option("--python", help="Python with the installed engine (IMAGE local)."),
        click.option("--gpus", default="all", show_default=True, help="GPUs for the container: all, none, or indices."),
        click.option(
            "--network",
            type=click.Choice(["auto", "bridge", "host"]),
            default="auto",
            show_default=True,
            help="Network of the container; auto: a bridge if the engine has one, else the host's.",
        ),
        click.option("--port", type=click.IntRange(1, 65535), help="Port on this machine.  [default: a free one]"),
        click.option(
            "--cache",
            type=click.Path(path_type=Path, file_okay=False),
            help="Hugging Face cache folder to mount.",
        ),
        click.option(
            "--mount",
            "mounts",
            multiple=True,
            metavar="FOLDER[:INSIDE][:rw]",
            help="Mount another folder, read-only unless `:rw` (repeatable).",
        ),
        click.option(
            "--start-timeout",
            type=float,
            default=900,
            show_default=True,
            help="Time limit until the server is healthy, in seconds.",
        ),
        click.option(
            "--request-timeout", type=float, default=120, show_default=True, help="Time limit of a request, in seconds."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def resolve_place(image: str, engine: str | None, project: Path | None) -> ServerPlace:
    """Return what IMAGE means: `local`, a cell id, a recipe with one cell, or an image reference.

    Raises:
        UsageError: the engine cannot be known.
        NothingSelected: the recipe has several cells.
    """
    from assay.adapters.files.serving import load_server_flags
    from assay.engines.table import all_engines, engine_names

    files, plan = load_or_example(project)
    root = files.root
    knowledge = load_server_flags(resources.find("knowledge", "server_flags.yaml", root))
    if image == "local":
        if engine is None:
            raise UsageError(f"IMAGE local needs --engine {' or --engine '.join(engine_names())}")
        return ServerPlace(root=root, cell="local", image="", reference="local", engine=engine, knowledge=knowledge)
    cells = {cell.id: cell for cell in plan.cells}
    found = cells.get(image) or _only_cell(image, list(plan.cells))
    if found is not None:
        known = engine or (found.engine if found.engine != "none" else None)
        if known is None:
            raise UsageError(f"{found.id} runs no server; if the image has one, name it with --engine")
        return ServerPlace(
            root=root,
            cell=found.id,
            image=found.image,
            reference=found.local_reference,
            engine=known,
            knowledge=knowledge,
        )
    if engine is None:
        guesses = [one.name for one in all_engines() if one.is_in(image)]
        if len(guesses) != 1:
            hint = suggestion(image, cells)
            listed = " or ".join(guesses or engine_names())
            raise UsageError(f"{image!r} is not a cell{hint}; for an image reference add --engine {listed}")
        engine = guesses[0]
    return ServerPlace(root=root, cell=image, image="", reference=image, engine=engine, knowledge=knowledge)


def _only_cell(image: str, cells: list[Cell]) -> Cell | None:
    mine = [cell for cell in cells if cell.image == image and cell.kind != "control"]
    if len(mine) > 1:
        listed = "\n".join(f"  {cell.id}" for cell in mine[:12])
        raise NothingSelected(f"{image} has {len(mine)} cells; name one:\n{listed}")
    return mine[0] if mine else None


def profiles_for(place: ServerPlace) -> dict[str, Profile]:
    """Return the profiles of an image, else those of `<engine>-blackwell`."""
    from assay.adapters.files.serving import load_profiles

    for images in (place.root / "images", resources.folder("images")):
        for name in filter(None, (place.image, f"{place.engine}-blackwell")):
            if (folder := images / name / "profiles").is_dir():
                return load_profiles(folder)
    return {}


def profile_named(place: ServerPlace, name: str | None) -> Profile | None:
    """Return a profile, or None without a name.

    Raises:
        UsageError: there is none of that name, or it is for another engine.
    """
    from assay.serving.profiles import named

    if name is None:
        return None
    profile = named(name, profiles_for(place))
    if profile.engine != place.engine:
        raise UsageError(f"the profile {name} is for {profile.engine}, and this image runs {place.engine}")
    return profile


def extra_flags(sets: tuple[str, ...]) -> Flags:
    """Read `--set flag=value`; several words become several values."""
    flags: Flags = {}
    for text in sets:
        name, equals, value = text.lstrip("-").partition("=")
        if not _FLAG.fullmatch(name):
            raise UsageError(f"--set {name[:40]!r}: the name of a flag has letters, digits, '.', '_' and '-'")
        words = _words(f"--set {name}", value) if equals and not value.startswith("{") else [value]
        flags[name] = "true" if not equals else (tuple(words) if len(words) > 1 else "".join(words))
    return flags


def _words(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}", hint="close the quotation mark, or write \\ before it") from error


def extra_env(envs: tuple[str, ...]) -> dict[str, str]:
    """Read `--env NAME=VALUE`."""
    found: dict[str, str] = {}
    for text in envs:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--env {name[:40]!r}: write NAME=VALUE")
        if not _VARIABLE.fullmatch(name):
            raise UsageError(f"--env {name[:40]!r}: a name has ASCII letters, digits and '_', and no digit comes first")
        found[name] = value
    return found


@dataclass(frozen=True, kw_only=True)
class ServingOptions:
    """What `place_options` adds."""

    engine: str | None
    model: str | None
    sets: tuple[str, ...]
    envs: tuple[str, ...]
    program: str | None
    python: str | None
    gpus: str
    network: Literal["auto", "bridge", "host"]
    port: int | None
    cache: Path | None
    mounts: tuple[str, ...]
    start_timeout: float
    request_timeout: float

    def api_key(self, knowledge: ServerFlags) -> str | None:
        """Return the key that requests to the server have to name, if it was given one."""
        from assay.engines.table import all_engines

        env = extra_env(self.envs)
        variables = [name for engine in all_engines() for name in engine.api_key_variables]
        given = {**env, **extra_flags(self.sets)}
        names = [*(flags.key_flag for flags in knowledge.engines.values()), *variables]
        key = next((given[name] for name in names if name in given), None)
        return key[0] if isinstance(key, tuple) else key

    def words(self) -> tuple[str, ...]:
        """Return `--program` as words."""
        return tuple(_words("--program", self.program)) if self.program else ()


def serve_request(
    place: ServerPlace, options: ServingOptions, profile: str | None, *, as_written: bool = False, bisect: bool = False
) -> ServeRequest:
    """Return what is to be served, from the command line.

    Raises:
        UsageError: a flag, a variable, the profile or the model cannot be used.
    """
    from assay.cli.serving_composition import facts_program
    from assay.pipeline.serve_check import ServeRequest

    return ServeRequest(
        cell=place.cell,
        image=place.image,
        engine=place.engine,
        job=job_in(place, options),
        facts_program=facts_program(place.root),
        profile_name=profile or "",
        profile=profile_named(place, profile),
        model=named_model(options),
        extra=extra_flags(options.sets),
        env=extra_env(options.envs),
        program=options.words(),
        models=finder(place, options),
        as_written=as_written,
        bisect=bisect,
        start_timeout=options.start_timeout,
        request_timeout=options.request_timeout,
    )


def finder(place: ServerPlace, options: ServingOptions) -> ModelFinder:
    """Return what finds models' configurations; the hub is asked only where the server itself would ask it."""
    from assay.adapters.files.model_files import ModelFiles

    is_folder = options.model is not None and Path(options.model).expanduser().is_dir()
    if not place.local and options.cache is None and not is_folder:
        console.say("no --cache: the server downloads into its container, and the files are lost with it")
    return ModelFiles(resources.find("knowledge", "models.yaml", place.root), cache=options.cache)


def named_model(options: ServingOptions) -> str | None:
    """Return `--model`: of a folder its absolute path, which is also where a container finds it.

    Raises:
        UsageError: it is a path, and no folder is there.
    """
    if options.model is None:
        return None
    folder = Path(options.model).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if options.model.startswith(("/", "./", "../", "~")):
        raise UsageError(f"the model folder {options.model} is not there")
    return options.model


def job_in(place: ServerPlace, options: ServingOptions) -> ServerJob:
    """Return the job of a server in a place, before its command is known.

    Raises:
        UsageError: a folder that was named is not there.
    """
    from assay.pipeline.serve import container_job, local_job

    cache = options.cache
    if cache is not None and not cache.is_dir():
        raise UsageError(f"the cache {cache} is not there", hint="make the folder first, or leave --cache out")
    cache = None if cache is None else cache.resolve()
    if place.local:
        if options.mounts:
            raise UsageError("--mount is for containers, and IMAGE is local")
        return local_job(port=options.port, cache=cache)
    gpus, model = options.gpus, named_model(options)
    return container_job(
        place.reference,
        run=f"serve-{os.getpid()}",
        gpus=() if gpus == "none" else "all" if gpus == "all" else tuple(gpus.split(",")),
        network=options.network,
        cache=cache,
        model=Path(model) if model and Path(model).is_dir() else None,
        mounts=mounts_of(options.mounts),
        port=options.port,
    )


def owner_of(folder: Path) -> str:
    """Return `uid:gid` of a folder's owner; where there is no folder yet, of the user that would make it."""
    try:
        found = folder.stat()
    except OSError:
        return f"{os.getuid()}:{os.getgid()}"
    return f"{found.st_uid}:{found.st_gid}"


def mounts_of(texts: Sequence[str]) -> list[Bind]:
    """Return the mounts that `--mount` names; the same one twice counts once.

    Raises:
        UsageError: one cannot be read, or two folders are mounted at one place.
    """
    found: dict[str, Bind] = {}
    for text in texts:
        bind = mount(text)
        if found.setdefault(bind.target, bind) != bind:
            raise UsageError(
                f"--mount {text}: {found[bind.target].source} is already mounted at {bind.target}",
                hint="mount one of the two elsewhere: FOLDER:/INSIDE",
            )
    return list(found.values())


def mount(text: str) -> Bind:
    """Read `--mount FOLDER[:INSIDE][:rw]`."""
    from assay.ports.engine import Bind

    source, *rest = text.split(":")
    writable = bool(rest) and rest[-1] in {"rw", "ro"} and rest.pop() == "rw"
    folder = Path(source).expanduser().absolute()
    if len(rest) > 1 or (rest and not rest[0].startswith("/")):
        raise UsageError(f"--mount {text!r}: write FOLDER, FOLDER:/INSIDE or FOLDER:/INSIDE:rw")
    if not folder.exists():
        raise UsageError(f"--mount {text}: {folder} is not there")
    return Bind(source=str(folder.resolve()), target=rest[0] if rest else str(folder), read_only=not writable)
