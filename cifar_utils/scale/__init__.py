"""More than one training at once (`sweep`), and one training by several processes (`parallel`)."""
