"""What a probe is given: a place for numbers, comparisons that can fail, ways to say why it could not be tried."""

import importlib
import importlib.util
import math
import os
import time
from contextlib import contextmanager


class Wrong(Exception):
    """The feature ran to its end and gave bad numbers."""


class Unsupported(Exception):
    """The hardware or the framework itself declares that it cannot."""


class NotRun(Exception):
    """It could not be tried here; the message says why."""


class Context:
    """The probe's side of the harness; `metrics` go to the record, `notes` explain them."""

    def __init__(self, *, folder, sabotage=""):
        self.folder = folder
        self.sabotage = sabotage
        self.disturbed = False  # whether sabotage has changed an engine's answers: then nothing else need be changed
        self.metrics = {}
        self.notes = []
        self.slower = []
        self.compared = 0
        self.shown = []

    # --- numbers -----------------------------------------------------------------------------------------------

    def metric(self, name, value):
        """Keep one number or short text; numbers are cut to six significant digits."""
        if isinstance(value, float):
            value = float(f"{value:.6g}") if math.isfinite(value) else str(value)
        self.metrics[name] = value

    def worst(self, name, value):
        """Keep the largest of all values given under this name."""
        self.metric(name, max(float(value), float(self.metrics.get(name, value))))

    def note(self, text):
        self.notes.append(text)

    def show(self, what):
        """Say that something was shown that is no comparison of tensors (a library that loads, text that parses)."""
        self.shown.append(what)

    @contextmanager
    def phase(self, name):
        """Time a part of the probe on the wall clock, in seconds; JIT compilation shows here."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.metric(f"seconds.{name}", round(time.monotonic() - began, 3))

    # --- comparisons -------------------------------------------------------------------------------------------

    def compare(self, name, got, reference, *, tolerance):
        """Compare with a reference by ||got - ref|| / ||ref||; raise Wrong beyond the tolerance or if not finite.

        The reference must have been computed another way in higher precision. The largest error of each name is kept as
        the metric `error.<name>`.
        """
        import torch

        got = got.detach()
        if self.sabotage in ("perturb", "nan"):
            got = got.clone().to(torch.float32).contiguous()
            flat = got.view(-1)
            if self.sabotage == "nan":
                flat[flat.numel() // 2] = math.nan
            else:
                flat[::7] += 4 * tolerance * (1 + flat.abs().max())
        if tuple(got.shape) != tuple(reference.shape):
            raise Wrong(f"{name}: shape {tuple(got.shape)}, expected {tuple(reference.shape)}")
        reference = reference.detach().to(device=got.device, dtype=torch.float64)
        got = got.to(torch.float64)
        scale = reference.norm().item()
        if not math.isfinite(scale) or scale == 0:
            raise RuntimeError(f"{name}: the reference is zero or not finite; a fault of the probe itself")
        if not torch.isfinite(got).all().item():
            bad = (~torch.isfinite(got)).sum().item()
            raise Wrong(f"{name}: {bad} of {got.numel()} values are not finite")
        error = ((got - reference).norm() / scale).item()
        self.compared += 1
        self.worst(f"error.{name.split('[')[0]}", error)
        if not error <= tolerance:
            raise Wrong(f"{name}: relative error {error:.3g}, tolerance {tolerance:g}")

    def equal(self, name, got, expected):
        """Compare integers, tokens or words exactly; raise Wrong if they differ."""
        if self.sabotage in ("perturb", "nan") and not self.disturbed:
            got = [got, "sabotaged"]
        self.compared += 1
        if got != expected:
            raise Wrong(f"{name}: got {_short(got)}, expected {_short(expected)}")

    def require(self, name, holds, explanation):
        """Raise Wrong with an explanation if a property that must hold does not."""
        self.compared += 1
        if not holds:
            raise Wrong(f"{name}: {explanation}")

    def faster(self, name, seconds, plain, *, slack=1.1):
        """Keep the speed against the plain alternative; slower by more than the slack makes the feature degraded."""
        ratio = plain / seconds
        self.metric(f"speedup.{name}", ratio)
        if self.sabotage == "slow":
            ratio = 0.5
        if ratio * slack < 1:
            self.slower.append(f"{name} takes {1 / ratio:.2f} x the time of doing without")

    # --- what is there -----------------------------------------------------------------------------------------

    def module(self, name):
        """Import a module of the image. Absent: NotRun. Failing to import: its own error, which is `broken`."""
        if self.sabotage == "missing-library":
            raise ImportError(
                f"lib{name.split('.')[0]}.so.1: cannot open shared object file: No such file or directory"
            )
        if self.is_absent(name):
            raise NotRun(f"package {name.split('.')[0]} is not installed")
        return importlib.import_module(name)

    def api(self, owner, *paths):
        """Return the first of several attributes that a module has, `module:attribute` or `attribute` of the owner.

        Raises NotRun (`API not found`) if no version's name fits: a renamed function is no broken feature.
        """
        for path in paths:
            holder, _, attribute = path.rpartition(":")
            try:
                target = importlib.import_module(holder) if holder else owner
            except ImportError:
                continue
            for part in attribute.split("."):
                target = getattr(target, part, None)
                if target is None:
                    break
            if target is not None:
                return target
        raise NotRun("API not found: " + ", ".join(paths))

    def is_absent(self, name):
        """Return whether the top-level package of a module cannot be found at all."""
        try:
            return importlib.util.find_spec(name.split(".")[0]) is None
        except (ImportError, ValueError):
            return True

    def generator(self, device="cuda"):
        """Return a generator with a fresh seed, kept as a metric so that a failure can be repeated (ASSAY_SEED)."""
        import torch

        seed = int(os.environ.get("ASSAY_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
        self.metric("seed", seed)
        return torch.Generator(device).manual_seed(seed)


def _short(value):
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + "..."
