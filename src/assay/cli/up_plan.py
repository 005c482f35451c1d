"""What `assay up` would do: the GPU, the image for it and the model, the memory, the command. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from assay import resources
from assay.cli.common import load_or_example
from assay.cli.targets import beside, system_share
from assay.errors import EngineError, NothingSelected, UsageError

if TYPE_CHECKING:
    from assay.adapters.files.project import ProjectFiles
    from assay.engines.knowledge import ServerFlags
    from assay.evidence.claims import Claim
    from assay.evidence.record import AnyRecord
    from assay.matrix.cell import Cell
    from assay.matrix.plan import Plan
    from assay.ports.engine import Engine, Gpus
    from assay.ports.models import FoundModel
    from assay.ports.server import ServerFacts
    from assay.serving.choice import Choice, Option
    from assay.serving.deploy import Deployment

__all__ = ["PORT", "Planned", "Planner", "ThisCard"]

PORT: Final = 8000
_NEWEST: Final = "9999"


@dataclass(frozen=True, kw_only=True)
class ThisCard:
    """The GPU, as far as it is known."""

    target: str
    title: str
    memory: int
    driver: str
    here: bool


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What would be done."""

    card: ThisCard
    found: FoundModel
    choice: Choice
    others: Sequence[Choice]
    left: Sequence[str]
    cell: Cell | None
    deployment: Deployment


class Planner:
    """Decides for one model and the options of `assay up`."""

    def __init__(self, model: str, project: Path | None, given: dict[str, Any]) -> None:
        from assay.adapters.files.model_files import ModelFiles
        from assay.adapters.files.serving import load_server_flags
        from assay.cli.composition import engine
        from assay.cli.predicting import known_records
        from assay.cli.serving import extra_env, extra_flags

        self.given = given
        self.files: ProjectFiles
        self.plan: Plan
        self.files, self.plan = load_or_example(project)
        root = self.files.root
        self.knowledge: ServerFlags = load_server_flags(resources.find("knowledge", "server_flags.yaml", root))
        self.records: list[AnyRecord] = known_records(self.files, self.plan)
        self.engine: Engine = engine()
        home = given["cache"] or Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
        self.cache = Path(home).expanduser().absolute()
        self.flags, self.env = extra_flags(given["sets"]), extra_env(given["envs"])
        folder = Path(model).expanduser()
        self.folder = str(folder.resolve()) if folder.is_dir() else None
        if self.folder is None and model.startswith(("/", "./", "../", "~")):
            raise UsageError(f"the model folder {model} is not there")
        self.model = self.folder or model
        self.models = ModelFiles(
            resources.find("knowledge", "models.yaml", root), cache=self.cache, offline=given["offline"]
        )
        self.gpu = given["gpus"] != "none"

    def planned(self) -> Planned:
        """Return what would be done; nothing is changed.

        Raises:
            UsageError: the model is unknown or does not fit, or the GPU is not a target of the matrix.
            NothingSelected: there is no image that could be taken.
        """
        from assay.serving.choice import choose, kernels_of

        card = self._card()
        found = self.models.find(self.model)
        if found is None:
            raise UsageError(
                f"model {self.model} was not found: it is not a folder, not in {self.cache}, and "
                "the hub has no such model or cannot be reached",
                hint="check the name; for a gated model set HF_TOKEN; or give the folder that holds its config.json",
            )
        options, cells = self._options(card)
        known = [*self.records, *self._predictions([cells[one.cell] for one in options if one.cell in cells], card)]
        choices, left = choose(
            options,
            target=card.target,
            kernels=kernels_of(found.config),
            records=known,
            claims=self._claims(),
            driver=card.driver,
        )
        if not choices:
            raise NothingSelected("no image can be used:\n" + "\n".join(f"  {line}" for line in left))
        best = choices[0]
        return Planned(
            card=card,
            found=found,
            choice=best,
            others=choices[1:],
            left=left,
            cell=cells.get(best.option.cell),
            deployment=self.deployment(best.option, card, known),
        )

    def _card(self) -> ThisCard:
        from assay.cli.host_composition import host_gpus
        from assay.matrix.cards import sm

        targets = self.plan.project.matrix.targets
        here = host_gpus() if self.gpu else ()
        wanted: str | None = self.given["target"]
        mine = next((one for one in here if wanted in (None, sm(one.capability))), None)
        target = wanted or (sm(mine.capability) if mine else "sm_120")
        if target not in targets:
            listed = ", ".join(targets)
            raise UsageError(f"{beside(target)} is not a target in matrix.yaml, which has {listed}")
        memory = self.given["memory_gib"] or targets[target].memory_gib
        known = mine is not None and not self.given["memory_gib"] and mine.memory_bytes
        return ThisCard(
            target=target,
            title=mine.name if mine else beside(target),
            memory=int(known or memory * (1 << 30)),
            driver=mine.driver if mine else "",
            here=mine is not None,
        )

    def _options(self, card: ThisCard) -> tuple[list[Option], dict[str, Cell]]:
        """Return the images that could be taken: the one that was named, or all cells with a server and a lock."""
        from assay.cli.predicting import platforms_for
        from assay.cli.serving import resolve_place

        if named := self.given["image"]:
            place = resolve_place(named, self.given["engine"], self.files.root if not self.files.example else None)
            cells = [cell for cell in self.plan.cells if cell.id == place.cell]
            if cells:
                return self._of_cells(cells, self._here([cells[0].local_reference]))
            return [self._foreign(place.reference, place.engine)], {}
        platforms = platforms_for(self.plan.project.matrix, card.target, here=card.here)
        cells = [
            cell
            for cell in self.plan.cells
            if cell.kind == "build"
            and cell.platform in platforms
            and cell.engine in self.knowledge.engines
            and self.given["engine"] in (None, cell.engine)
        ]
        there = self._here([cell.local_reference for cell in cells])
        usable = [cell for cell in cells if self.files.lock(cell) is not None or cell.local_reference in there]
        if not usable:
            raise NothingSelected(
                "no cell with a server has a lock or an image here",
                hint="assay lock, or name an image: --image REFERENCE",
            )
        return self._of_cells(usable, there)

    def _here(self, references: Sequence[str]) -> set[str]:
        try:
            return set(self.engine.labels(references))
        except EngineError:
            return set()

    def _of_cells(self, cells: Sequence[Cell], there: set[str]) -> tuple[list[Option], dict[str, Cell]]:
        from assay.cli.predicting import options_of

        options = options_of(cells, self.records, self.files.root, here=there, engine=self.engine)
        return options, {cell.id: cell for cell in cells}

    def _foreign(self, reference: str, engine: str) -> Option:
        from assay.serving.choice import Option

        package = self.knowledge.engines[engine].package
        here = reference in self._here([reference])
        return Option(
            cell=reference,
            reference=reference,
            engine=self.knowledge.engines[engine],
            version=self.facts(reference, gpus=()).packages.get(package, "") if here else "",
            digest=self._digest(reference) if here else None,
            where="here" if here else "to be pulled",
        )

    def _digest(self, reference: str) -> str | None:
        image = self.engine.image(reference)
        return image.digest if image else None

    def _predictions(self, cells: Sequence[Cell], card: ThisCard) -> Sequence[AnyRecord]:
        from assay.cli.predicting import predictions

        return predictions(self.files, self.plan, cells, card.target, self.records, offline=self.given["offline"])

    def _claims(self) -> Sequence[Claim]:
        from assay.cli.predicting import all_claims

        return all_claims(self.files.root)

    def deployment(self, option: Option, card: ThisCard, records: Sequence[AnyRecord]) -> Deployment:
        """Return the server of an image: its flags by the evidence, its memory by the model and the card."""
        from assay.cli.host_composition import port_for
        from assay.cli.serving import owner_of
        from assay.pipeline.launch import LaunchRequest, LaunchTarget, launch

        token = {"HF_TOKEN": value} if (value := os.environ.get("HF_TOKEN")) else {}
        request = LaunchRequest(
            cell=option.cell,
            reference=option.reference,
            engine=option.engine.name,
            # Of an image that was not pulled yet nobody knows the release: its flags are taken for the newest.
            version=option.version or _NEWEST,
            digest=option.digest,
            target=card.target,
            card_bytes=card.memory,
            system_share=system_share(card.target),
            wanted=[LaunchTarget(model=self.model, folder=self.folder)],
            context=self.given["context"],
            requests=self.given["requests"],
            port=port_for(self.given["port"], PORT),
            cache=str(self.cache),
            user=owner_of(self.cache),
            metrics=True,
            extra=self.flags,
            env={**token, **self.env},
        )
        return launch(request, self.knowledge, self._claims(), records, self.models)

    def facts(self, reference: str, *, gpus: Gpus) -> ServerFacts:
        """Read devices and packages in an image."""
        from assay.cli.serving_composition import facts_in

        return facts_in(self.engine, reference, self.files.root, gpus)

    @property
    def gpus(self) -> Gpus:
        """The GPUs that the server gets."""
        asked = self.given["gpus"]
        return () if asked == "none" else "all" if asked == "all" else tuple(asked.split(","))
