"""Reading texts: labels, numbers and thoughts in replies, slots in prompts."""
