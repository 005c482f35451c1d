"""The world: engines, registries, indexes, files. The only place that imports docker, requests or subprocess."""
