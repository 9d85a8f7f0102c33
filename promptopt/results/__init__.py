"""What a run found, and what follows from it."""
