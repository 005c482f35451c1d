"""Checks the policy of a matrix against what exists: images, targets and probes."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from assay.errors import Problem
from assay.foundation.nearest import suggestion
from assay.matrix.loading import Project
from assay.matrix.policy import ANY

__all__ = ["policy_problems"]


def policy_problems(project: Project, features: Collection[str]) -> Iterator[Problem]:
    """Yield what the policy names and nobody has: a typo there means a tag that can never be given.

    Args:
        project: with the policy in its matrix.
        features: every feature that has a probe.
    """
    document, targets = project.documents["matrix.yaml"], project.matrix.targets
    for name, level in project.matrix.policy.levels.items():
        for image, required in level.images.items():
            path = ("policy", "levels", name, "images", image)
            if image != ANY and image not in project.images:
                message = f"policy: there is no image {image!r}{suggestion(image, project.images)}"
                yield document.problem(path, message, at_key=True)
            for target, requirement in required.items():
                if target not in targets:
                    message = f"policy: there is no target {target!r}{suggestion(target, targets)}"
                    yield document.problem((*path, target), message, at_key=True)
                for key in ("works", "may_be_unsupported"):
                    for position, feature in enumerate(getattr(requirement, key)):
                        if feature not in features:
                            message = f"policy: no probe tests {feature!r}{suggestion(feature, features)}"
                            yield document.problem((*path, target, key, position), message)
