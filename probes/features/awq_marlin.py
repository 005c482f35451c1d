"""An AWQ model through Marlin in each engine of the image, against the dequantised reference."""

FEATURE = "awq-marlin"
REQUIRES = ("torch-device",)
TIMEOUT = 1300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.each(probe, serving.quantised, "vllm", "sglang")
