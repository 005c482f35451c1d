"""SGLang's radix cache: shared prefixes are found, answers stay right, the first token comes no later."""

FEATURE = "radix-cache"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.prefix_cache(probe, "sglang")
