"""What a room needs around the notebooks: doctor (will this laptop do?), catch_up, reset, copies, room (no Wi-Fi)."""
