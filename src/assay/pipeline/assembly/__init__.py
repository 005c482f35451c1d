"""Images assembled from their wheels, without running a build: same Dockerfile, same base, same bytes everywhere."""
