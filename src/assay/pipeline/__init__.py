"""The steps from a plan to a verified tag: `steps` lists them. They work through ports, never adapters."""
