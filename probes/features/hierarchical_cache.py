"""SGLang's hierarchical cache (GPU and host memory): shared prefixes are found and answers stay right."""

FEATURE = "hierarchical-cache"
REQUIRES = ("torch-device",)
TIMEOUT = 300
GPUS = 1
WARM = False


def run(probe):
    from probelib import serving

    serving.prefix_cache(
        probe,
        "sglang",
        arguments={"enable_hierarchical_cache": True, "hicache_ratio": 2.0},
        must=("enable_hierarchical_cache", "the hierarchical cache"),
    )
