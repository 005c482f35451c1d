"""A small project that unit tests read, change and break."""

from __future__ import annotations

import pytest

MATRIX = """\
version: 1
targets:
  sm_120:
    name: GeForce RTX 5090
    compute_capability: 12.0
    memory_gib: 32
    shared_memory_per_block: 101376
    cuda: ">=12.8"
    driver: ">=570"
    arch_list: 12.0+PTX
  sm_90: &hopper
    name: H200
    compute_capability: 9.0
    memory_gib: 141
    shared_memory_per_block: 232448
    cuda: ">=11.8"
    driver: ">=525"
    arch_list: 9.0+PTX
bases:
  slim: {kind: bootstrap, distribution: debian, suite: bookworm, python: 3.11, glibc: 2.36, packages: [python3]}
  devel: {kind: registry, image: "docker.io/nvidia/cuda:13.0.2-devel", python: 3.12, glibc: 2.39, cuda: 13.0}
indexes:
  pypi: {}
  nightly: {url: "https://nightly.example/whl/cu130", nightly: true, keeps_days: 60}
axes:
  cuda: {label: cu, compact: true, values: [12.6, 12.8, 13.0]}
  torch:
    label: torch
    values: [2.7.0, 2.8.0, 2.10, {id: nightly, spec: ">=2.12.0.dev0", index: nightly, date: latest}]
  kernel: {label: k, values: [0.3.9.post2, 1.0+cu128]}
requires:
  - {when: {target: sm_120}, need: {cuda: ">=12.8"}, reason: nvcc knows compute_120 from CUDA 12.8 on.}
groups:
  starter: [serving-cu128-torch2.8.0]
  all-of-it: {description: everything, select: [starter, serving]}
  newest: ["torch>=2.9"]
default_group: starter
"""

IMAGE = """\
description: An image.
engine: none
targets: [sm_120]
id: [cuda, torch]
defaults: {base: slim, kernel: 0.3.9.post2}
axes:
  cuda: [12.6, 12.8]
  torch: [2.7.0, 2.8.0]
include:
  - {cuda: 13.0, torch: 2.10, kernel: 1.0+cu128}
exclude:
  - {match: {torch: 2.7.0, cuda: 12.8}, reason: "PyTorch 2.7.0 for CUDA 12.8 was withdrawn by us."}
requirements: ["torch{{ torch.pin }}", "kernel{{ kernel.pin }}"]
system_packages: [libnuma1]
env: {GREETING: 'say "$HOME" \\ once'}
controls:
  - name: cu126
    reason: The CUDA 12.6 build has no sm_120 code.
    point: {cuda: 12.6, torch: 2.7.0}
    expect: {stage: audit, cause: arch-torch-incompatible}
"""


@pytest.fixture
def matrix_text() -> str:
    """The text of a matrix.yaml."""
    return MATRIX


@pytest.fixture
def image_text() -> str:
    """The text of an image.yaml."""
    return IMAGE
