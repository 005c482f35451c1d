"""The key-value cache in FP8 in each engine of the image."""

FEATURE = "fp8-kv-cache-engine"
REQUIRES = ("torch-device",)
TIMEOUT = 600
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.each(probe, serving.fp8_cache, "vllm", "sglang")
