"""vLLM with the attention back end FLASHINFER: starts, really uses it, agrees with the reference."""

FEATURE = "vllm-flashinfer"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.attention_backend(probe, "vllm", "FLASHINFER", packages=("flashinfer",))
