"""Parses text: labels, numbers and reasoning in replies, slots in prompts."""
