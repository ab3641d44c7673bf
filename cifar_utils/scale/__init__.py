"""More than one training at once: `sweep`."""
