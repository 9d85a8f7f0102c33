"""Helpers for characters, files and streams. Knows nothing of prompts or models."""
