"""SGLang with the attention back end fa3: starts, really uses it, agrees with the reference."""

FEATURE = "sglang-fa3"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.attention_backend(probe, "sglang", "fa3")
