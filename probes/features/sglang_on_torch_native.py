"""SGLang with the attention back end torch_native: starts, really uses it, agrees with the reference."""

FEATURE = "sglang-torch-native"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.attention_backend(probe, "sglang", "torch_native")
