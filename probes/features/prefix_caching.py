"""vLLM's prefix caching: shared prefixes are found, answers stay right, the first token comes no later."""

FEATURE = "prefix-caching"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.prefix_cache(probe, "vllm")
