"""Cells and records made up for the pages' tests and benchmarks: as many as asked for, always the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from assay.evidence.record import (
    AnyRecord,
    AuditRecord,
    BenchRecord,
    BenchSeries,
    BuildRecord,
    BuildStatus,
    Device,
    FeatureResult,
    LayerSize,
    ProbeRecord,
    Spread,
)
from assay.foundation.outcome import Outcome, Verdict
from assay.matrix.cell import Cell
from assay.matrix.model import AxisValue

__all__ = ["FEATURES", "START", "cells", "records"]

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
FEATURES = (
    "cuda-graphs", "custom-all-reduce", "flashinfer", "fp8-kv-cache", "marlin", "nvfp4-moe", "radix-cache", "sampling",
    "torch-compile", "triton-attention",
)  # fmt: skip


def cells(count: int) -> list[Cell]:
    """Return cells of two engines on two targets."""
    made = []
    for i in range(count):
        engine = ("sglang", "vllm")[i % 2]
        torch = f"2.{8 + i % 7}.{i // 14 % 4}"
        made.append(
            Cell(
                id=f"{engine}-made-cu130-torch{torch}-n{i:05d}",
                image=f"{engine}-made",
                engine="sglang" if i % 2 == 0 else "vllm",
                kind="build",
                point={
                    "torch": AxisValue(id=torch, version=torch),
                    engine: AxisValue(id=f"0.{i % 40}.0", version=f"0.{i % 40}.0"),
                },
                targets=("sm_120",) if i % 3 else ("sm_120", "sm_90"),
                base="slim",
            )
        )
    return made


def _device(target: str) -> Device:
    number = target.removeprefix("sm_")
    return Device(
        name={"120": "NVIDIA GeForce RTX 5090", "90": "NVIDIA H200"}[number],
        capability=f"{number[:-1]}.{number[-1]}",
        memory_bytes=32 << 30,
        driver="580.65.06",
    )


def records(count: int, *, seed: int = 5) -> Iterator[AnyRecord]:
    """Yield builds, audits, probes and a few benchmarks of the cells, oldest first."""
    rng = random.Random(seed)
    outcomes = [*[Outcome.WORKS] * 12, *Outcome]
    for i, cell in enumerate(cells(count)):
        when = START + timedelta(seconds=i)
        run = f"20261101T120000-{i % 5:04x}"
        failed = i % 11 == 3
        yield BuildRecord(
            created=when,
            run=run,
            cell=cell.id,
            image=cell.image,
            status=BuildStatus.FAILED if failed else BuildStatus.BUILT,
            reason="nvcc fatal   : Unsupported gpu architecture 'compute_120a'" if failed else "",
            cause="arch-nvcc-unsupported" if failed else None,
            seconds=300 + i % 50,
            size_bytes=None if failed else 4_000_000_000 + i * 1000,
            image_digest=None if failed else f"sha256:{i:064x}",
            layers=() if failed else (LayerSize(digest=f"sha256:{i:064x}", bytes=866_000_000, made_by="COPY torch"),),
        )
        yield AuditRecord(
            created=when,
            run=run,
            cell=cell.id,
            image=cell.image,
            subject="wheels",
            verdict=Verdict.FAIL if failed else Verdict.OK,
            targets=cell.targets,
            summary=("flash_ops.abi3.so holds no code for sm_120",) if failed else (),
            predictions={
                target: {feature: rng.choice(outcomes) for feature in FEATURES if rng.random() < 0.7}
                for target in cell.targets
            },
        )
        if failed or i % 4 == 0:
            continue
        target = cell.targets[i % len(cell.targets)]
        yield ProbeRecord(
            created=when + timedelta(seconds=0.5),
            run=run,
            cell=cell.id,
            image=cell.image,
            image_digest=f"sha256:{i:064x}",
            suite_digest="sha256:" + "0" * 64,
            executor="docker",
            devices=(_device(target),),
            packages={"torch": str(cell.point["torch"]), "numpy": "2.3.4"},
            features={
                feature: FeatureResult(
                    outcome=rng.choice(outcomes), seconds=rng.random() * 30, metrics={"speedup": 1.3}
                )
                for feature in FEATURES
                if rng.random() < 0.6
            },
        )
        if i % 50 == 1:
            yield _bench(cell, when, run, target, rng)


def _bench(cell: Cell, when: datetime, run: str, target: str, rng: random.Random) -> BenchRecord:
    def spread(scale: float) -> Spread:
        return Spread(
            mean=scale, p50=scale, p90=scale * 2, p95=scale * 2.2, p99=scale * 3, least=scale / 2, most=scale * 4
        )

    return BenchRecord(
        created=when + timedelta(seconds=0.7),
        run=run,
        cell=cell.id,
        image=cell.image,
        engine=cell.engine,
        executor="docker",
        profile="balanced",
        model="Qwen/Qwen2.5-3B-Instruct",
        stable=True,
        devices=(_device(target),),
        series=tuple(
            BenchSeries(
                workload=workload,
                users=users,
                max_tokens=128,
                requests=64,
                failed=0,
                seconds=20.0,
                completion_tokens=8192,
                requests_per_second=3.2 * users**0.7,
                tokens_per_second=(200 + 40 * rng.random()) * users**0.7,
                ttft=spread(40 * users**0.6),
            )
            for workload in ("chat", "shared-prefix")
            for users in (1, 5, 10, 20)
        ),
    )
