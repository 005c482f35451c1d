"""Cells with shared layers go first, and caches name what others can take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from assay.pipeline.sharing import SharedLayers, shared_first, stages_of
from assay.ports.builder import BuildTask


def dockerfile(*wheels: str, base: str = "debian", cell: str = "x") -> str:
    stages = "".join(f"FROM python AS {wheel}\nRUN install {wheel}\n" for wheel in wheels)
    copies = "".join(f"COPY --link --from={wheel} /out/ /\n" for wheel in wheels)
    return (
        f"# {cell}\nARG BASE={base}\nFROM ${{BASE}} AS python\n{stages}FROM python AS image\n{copies}LABEL x={cell}\n"
    )


def task(text: str) -> BuildTask:
    return BuildTask(dockerfile=text, tags=("registry.example/x:1",), log=Path("build.log"))


def test_stages_are_the_same_in_images_that_differ_above_them() -> None:
    assert stages_of(dockerfile("torch", cell="a")) == stages_of(dockerfile("torch", cell="b"))
    assert not stages_of(dockerfile("torch")) & stages_of(dockerfile("torch", base="ubuntu"))


def test_the_cells_that_have_all_shared_layers_go_first() -> None:
    texts = [
        dockerfile("own"),
        dockerfile("torch"),
        dockerfile("torch", "nccl"),
        dockerfile("torch", "nccl", "rare"),
        dockerfile("triton", base="ubuntu"),
        dockerfile("triton", base="ubuntu", cell="y"),
    ]

    assert [2, 4, 0, 1, 3, 5] == shared_first(texts)


def test_cells_without_shared_layers_keep_their_order() -> None:
    assert [0, 1, 2] == shared_first(["FROM scratch\n", "FROM alpine\n", "FROM debian\n"])
    assert [] == shared_first([])


def test_a_cache_is_written_by_the_first_alone_and_read_when_it_is_there() -> None:
    shared = SharedLayers()
    first, second = shared.joined(task(dockerfile("torch"))), shared.joined(task(dockerfile("torch")))
    shared.ended(first, built=True)
    third = shared.joined(task(dockerfile("torch", "nccl")))

    assert (True, "") == (first.cache_to.startswith("registry.example/x:cache-"), second.cache_to)
    assert ((), (first.cache_to,)) == (second.cache_from, third.cache_from)
    assert third.cache_to not in {"", first.cache_to}


def test_a_cache_of_a_build_that_was_lost_is_not_read_and_is_written_by_the_next() -> None:
    shared = SharedLayers()
    first = shared.joined(task(dockerfile("torch")))
    shared.ended(first, built=False)
    second = shared.joined(replace(task(dockerfile("torch"))))

    assert ((), first.cache_to) == (second.cache_from, second.cache_to)
