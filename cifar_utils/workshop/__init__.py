"""What a room needs around the notebooks: doctor (will this laptop do?), reset (a clean start), room (no Wi-Fi)."""
