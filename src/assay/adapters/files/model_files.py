"""Model configurations from folders, the Hugging Face cache, the hub, and knowledge/models.yaml, in this order."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import requests

from assay.adapters.files.regular import read_config, read_regular
from assay.errors import StoreError, UsageError
from assay.foundation.foreign import ForeignError, read_json
from assay.foundation.strict import Value
from assay.foundation.text import Date, PlainText
from assay.foundation.yamltext import load, parse
from assay.ports.models import FoundModel

__all__ = ["ModelFiles"]

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB: Final = "https://huggingface.co"
_TIMEOUT: Final = 10.0


class _KnownModel(Value):
    config: dict[str, str]
    source: PlainText
    date: Date


class _KnownModels(Value):
    version: str
    models: dict[str, _KnownModel]


class ModelFiles:
    """Implements `assay.ports.models.ModelFinder`.

    Args:
        known: knowledge/models.yaml.
        cache: the Hugging Face cache (HF_HOME); the usual place without it.
        offline: never ask the hub.
    """

    def __init__(self, known: Path, *, cache: Path | None = None, offline: bool = False) -> None:
        self._known = known
        home = os.environ.get("HF_HOME", "~/.cache/huggingface")
        self._cache = (cache or Path(home)).expanduser()
        self._offline = offline or os.environ.get("HF_HUB_OFFLINE", "") in {"1", "true", "TRUE"}

    def find(self, model: str) -> FoundModel | None:
        """Return a model's configuration, or None."""
        folder = Path(model).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise UsageError(f"{model} is not a model: the folder has no config.json")
            return _of_folder(folder)
        if not _NAME.fullmatch(model):
            return None
        return self._cached(model) or self._hub(model) or self._shipped(model)

    def _cached(self, model: str) -> FoundModel | None:
        snapshots = self._cache / "hub" / ("models--" + model.replace("/", "--")) / "snapshots"
        folders = sorted(snapshots.glob("*/config.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        return _of_folder(folders[0].parent) if folders else None

    def _hub(self, model: str) -> FoundModel | None:
        if self._offline:
            return None
        token = os.environ.get("HF_TOKEN")
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = requests.get(f"{_HUB}/{model}/resolve/main/config.json", headers=headers, timeout=_TIMEOUT)
            config = answer.json() if answer.status_code == requests.codes.ok else None
            index = requests.get(
                f"{_HUB}/{model}/resolve/main/model.safetensors.index.json", headers=headers, timeout=_TIMEOUT
            )
            total = (
                index.json().get("metadata", {}).get("total_size") if index.status_code == requests.codes.ok else None
            )
        except (requests.RequestException, ValueError):
            return None
        if not isinstance(config, dict):
            return None
        return FoundModel(config=config, weight_bytes=total if isinstance(total, int) else None, source="the hub")

    def _shipped(self, model: str) -> FoundModel | None:
        if not self._known.is_file():
            return None
        models = parse(load(read_config(self._known), file=str(self._known)), _KnownModels).models
        if model not in models:
            return None
        found = models[model]
        return FoundModel(config=found.config, weight_bytes=None, source=f"knowledge/models.yaml ({found.source})")


def _of_folder(folder: Path) -> FoundModel:
    path = folder / "config.json"
    try:
        config = read_json(read_regular(path))
    except (ForeignError, OSError, StoreError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, Mapping):
        raise UsageError(f"{path} is not an object")
    return FoundModel(config=dict[str, Any](config), weight_bytes=_weights(folder), source=str(path))


def _weights(folder: Path) -> int | None:
    for pattern in ("*.safetensors", "*.bin", "*.gguf"):
        sizes = [path.stat().st_size for path in folder.glob(pattern) if path.is_file()]
        if sizes:
            return sum(sizes)
    return None
