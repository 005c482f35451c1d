"""SGLang's hierarchical cache: shared prefixes are found on the card and in the host's memory, answers stay right."""

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
        # Host memory for all that is asked, so that nothing is driven out of there as well.
        arguments={"enable_hierarchical_cache": True, "hicache_ratio": 4.0, "hicache_write_policy": "write_through"},
        must=("enable_hierarchical_cache", "the hierarchical cache"),
        host=True,
    )
