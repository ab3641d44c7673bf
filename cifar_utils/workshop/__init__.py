"""Tools for running a workshop: doctor and speed (is a laptop ready?), catch_up, reset, locks (is a run in use?),
copies, room and install."""
