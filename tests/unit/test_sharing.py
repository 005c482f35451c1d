"""Shared layers are made first and once, and the cells that have them go first."""

from __future__ import annotations

from assay.pipeline.sharing import SharedLayers, layers_alone, linked_layers, shared_first, shared_layers


def dockerfile(*wheels: str, base: str = "debian", cell: str = "x") -> str:
    stages = "".join(f"FROM python AS {wheel}\nRUN install {wheel}\n" for wheel in wheels)
    copies = "".join(f"COPY --link --from={wheel} /out/ /\n" for wheel in wheels)
    return (
        f"# {cell}\nARG BASE={base}\nFROM ${{BASE}} AS python\n{stages}FROM python AS image\n{copies}LABEL x={cell}\n"
    )


def layers(text: str) -> frozenset[str]:
    return frozenset(linked_layers(text).values())


def test_layers_are_the_same_in_images_that_differ_above_them() -> None:
    assert layers(dockerfile("torch", cell="a")) == layers(dockerfile("torch", cell="b"))
    assert not layers(dockerfile("torch")) & layers(dockerfile("torch", base="ubuntu"))


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


def test_layers_alone_have_the_stages_and_nothing_of_the_image() -> None:
    text = dockerfile("torch", "own")
    alone = layers_alone(text, frozenset(shared_layers([text, dockerfile("torch")])))

    assert alone.startswith("# x\nARG BASE=debian\nFROM ${BASE} AS python\nFROM python AS torch\n")
    assert alone.endswith("\nFROM scratch AS image\nCOPY --link --from=torch /out/ /\n")


def test_what_one_build_makes_others_wait_for_and_then_take() -> None:
    texts = [dockerfile("torch", "own"), dockerfile("torch", "nccl"), dockerfile("nccl")]
    shared = SharedLayers(frozenset(shared_layers(texts)))
    first, second, third = (shared.of(text) for text in texts)
    makes = shared.promise(first)

    assert (1, 2, first) == (len(first), len(second), makes)
    assert [True, False] == [shared.are_being_made(second), shared.are_being_made(third)]
    assert () == shared.caches(second)
    shared.ended(makes, "registry.example/x:cache-1")
    assert ("registry.example/x:cache-1",) == shared.caches(second)
    assert third == shared.promise(second), "only what nobody has made"


def test_layers_that_were_lost_are_made_by_the_next() -> None:
    text = dockerfile("torch")
    shared = SharedLayers(frozenset(shared_layers([text, text])))
    lost = shared.promise(shared.of(text))
    shared.ended(lost, None)

    assert not shared.are_being_made(lost)
    assert (lost, ()) == (shared.promise(shared.of(text)), shared.caches(lost))


def test_an_image_that_shares_nothing_makes_nothing_first() -> None:
    assert frozenset() == SharedLayers(frozenset(shared_layers(["FROM scratch\n"]))).of("FROM scratch\n")
