"""Characters, files and streams. Knows nothing of prompts or models."""
