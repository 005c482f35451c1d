"""SGLang starts on a tiny model, decodes greedily, and CUDA graphs on and off agree with the reference."""

FEATURE = "sglang-engine"
REQUIRES = ("torch-device",)
TIMEOUT = 600
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.generation(probe, "sglang")
