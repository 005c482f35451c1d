"""The steps from a plan to a verified tag. Flows know ports, never adapters."""
