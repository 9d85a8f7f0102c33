"""Every strategy and every peer, on real models, at equal tokens. See docs/arena.md."""
