"""FlashAttention 3, from whichever package of the image carries it."""

FEATURE = "flash-attn-3"
REQUIRES = ("torch-device",)
TIMEOUT = 180
GPUS = 1
WARM = True


def run(probe):
    from probelib.flash import check

    check(probe, 3)
