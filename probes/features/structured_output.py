"""Structured output: answers held to a JSON schema parse and fit, in each engine of the image."""

FEATURE = "structured-output"
REQUIRES = ("torch-device",)
TIMEOUT = 600
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.each(probe, serving.structured_output, "vllm", "sglang")
