"""What searches are made of: the run, moves, surrogates, and asking for new prompts."""
