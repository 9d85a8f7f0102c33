"""Fronts of reward and tokens at equal tokens: ours, GEPA's, and promptolution's averaged objectives."""
