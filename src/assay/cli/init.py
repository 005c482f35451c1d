"""`assay init`: write a project that works at once."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import click

from assay import resources
from assay.cli import console
from assay.errors import UsageError
from assay.foundation.nearest import suggestion

__all__ = ["command"]


def _images() -> list[str]:
    """Return the images that a new project may have."""
    return sorted(path.name for path in resources.find("project", "images").iterdir())


def _short(image: str) -> str:
    return image.partition("-")[0]


@click.command("init")
@click.argument("folder", default=".", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--image",
    "words",
    multiple=True,
    metavar="NAME",
    help=f"Write only this recipe: {', '.join(map(_short, _images()))} (default: all).",
)
def command(folder: Path, words: tuple[str, ...]) -> int:
    """Write a project into DIR (default: this folder): matrix, recipes, locks, noxfile and a workflow for CI.

    The project is complete: its cells are locked, its Dockerfiles are rendered, and the checks of its workflow pass.
    Existing files are never replaced; if DIR has a file of the same name, nothing is written.
    """
    from assay.adapters.files.starter import lay_down
    from assay.pipeline.generated import write_generated

    known = {name: image for image in _images() for name in (image, _short(image))}
    for word in words:
        if word not in known:
            names = ", ".join(map(_short, _images()))
            raise UsageError(f"--image {word}: there is no such starter image{suggestion(word, known)}", hint=names)
    images = sorted({known[word] for word in words}) or _images()
    for path in lay_down(folder, images, partial(write_generated, say=console.say)):
        console.data(str(folder / path))
    console.say("A project with the images " + " and ".join(images) + ". Next:")
    here = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    console.say(f"  {here}assay audit    # predict what works, from the wheels alone; needs no GPU")
    console.say(f"  {here}assay build    # build the images; needs Docker, which `assay doctor` checks")
    return 0
