"""SGLang with the attention back end flashinfer: starts, really uses it, agrees with the reference."""

FEATURE = "sglang-flashinfer"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.attention_backend(probe, "sglang", "flashinfer", packages=("flashinfer",))
