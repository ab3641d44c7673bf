"""Exercises that check themselves: check, hint, solution, quiz."""
