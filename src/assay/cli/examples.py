"""Which commands belong together in `assay --help`, and what people type: the examples in each command's help."""

from __future__ import annotations

from typing import Final

__all__ = ["EXAMPLES", "GROUPS"]

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Serve": ("up", "status", "logs", "down", "recommend", "launch", "serve-check", "bench"),
    "Check wheels and versions": ("audit", "find", "facts", "diagnose"),
    "Build and test images": ("init", "plan", "lock", "update", "build", "assemble", "probe", "jobs", "collect"),
    "Publish and verify": ("publish", "verify", "policy", "report"),
    "Compare and maintain": ("diff", "bisect", "records", "render", "doctor", "completion"),
}
"""Heading -> commands, in the order of `assay --help`."""

EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "up": (
        "assay up Qwen/Qwen3-32B-AWQ",
        "assay up ./my-model --context 16384 --port 9000",
        'assay up Qwen/Qwen3-32B-AWQ --dry-run --target "RTX 5090"',
    ),
    "status": ("assay status", "assay status --format json"),
    "logs": ("assay logs", "assay logs qwen3-32b-awq --follow"),
    "down": ("assay down", "assay down --all"),
    "recommend": (
        'assay recommend --target "RTX 5090" --need nvfp4,cuda-graphs',
        "assay recommend --have localhost:5000 --key assay.pub",
    ),
    "launch": (
        "assay launch CELL --model Qwen/Qwen3-32B-AWQ",
        "assay launch CELL --model Qwen/Qwen3-32B-AWQ --format kubernetes --reference REGISTRY/IMAGE@sha256:...",
    ),
    "serve-check": ("assay serve-check CELL --model Qwen/Qwen3-8B --cache ~/.cache/huggingface",),
    "bench": ("assay bench CELL --profile baseline --cache ~/.cache/huggingface",),
    "audit": (
        'assay audit NAME==VERSION --target "RTX 5090"',
        'assay audit dist/*.whl --torch 2.8.0,2.9.1 --target "H200,DGX Spark"',
        "assay audit --image REGISTRY/IMAGE:TAG",
    ),
    "facts": ("assay facts list", "assay facts show torch==2.14.0"),
    "diagnose": ("assay diagnose server.log", "docker logs NAME 2>&1 | assay diagnose -"),
    "init": ("assay init serving", "assay init serving --image NAME"),
    "plan": ("assay plan", "assay plan --excluded"),
    "lock": ("assay lock", "assay lock --check"),
    "build": (
        "assay build",
        "assay build CELL --dry-run",
        "assay build --push REGISTRY/IMAGE",
        "assay build --on POOL",
    ),
    "assemble": ("assay assemble CELL --load",),
    "probe": ("assay probe IMAGE", "assay probe --list"),
    "publish": ("assay publish CELL --level verified",),
    "verify": ("assay verify REGISTRY/IMAGE:TAG --key assay.pub",),
    "policy": ("assay policy check",),
    "report": ("assay report", "assay report --html site/ --predict", "assay report --into README.md --check"),
    "diff": ("assay diff CELL-A CELL-B",),
    "bisect": ("assay bisect --feature cuda-graphs --good CELL-A --bad CELL-B",),
    "records": ("assay records push REGISTRY/records", "assay records pull REGISTRY/records --kind probe"),
    "render": ("assay render", "assay render --check"),
    "doctor": ("assay doctor", "assay doctor --need gpu"),
    "completion": ("assay completion bash > ~/.local/share/bash-completion/completions/assay",),
}
"""Command -> command lines; a test checks their options."""
