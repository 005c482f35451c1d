"""What flows need of the world, as Protocols; one module per neighbour."""
