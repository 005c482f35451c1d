"""FlashAttention 2, from whichever package of the image carries it."""

FEATURE = "flash-attn-2"
REQUIRES = ("torch-device",)
TIMEOUT = 180
GPUS = 1
WARM = True


def run(probe):
    from probelib.flash import check

    check(probe, 2)
