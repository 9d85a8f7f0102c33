"""Models behind a provider's API, or any server that speaks one."""
