"""Tools for running a workshop: doctor and speed (is a laptop ready?), catch_up, reset, copies, room and install."""
