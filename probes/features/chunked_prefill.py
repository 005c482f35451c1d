"""Chunked prefill: a prompt many chunks long, alone and beside decoding requests, in each engine of the image."""

FEATURE = "chunked-prefill"
REQUIRES = ("torch-device",)
TIMEOUT = 600
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.each(probe, serving.chunked_prefill, "vllm", "sglang")
