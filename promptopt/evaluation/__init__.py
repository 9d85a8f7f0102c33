"""From prompts to rewards: the scorer, the one way to a model, budgets, episodes, races."""
