"""vLLM with the attention back end FLASH_ATTN: starts, really uses it, agrees with the reference."""

FEATURE = "vllm-flash-attn"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.attention_backend(probe, "vllm", "FLASH_ATTN")
