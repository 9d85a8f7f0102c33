"""From prompts to rewards: scorer, caller, budgets, episodes and races."""
