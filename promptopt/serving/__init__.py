"""Local models behind OpenAI's chat and text completions, for other programs on this machine."""
