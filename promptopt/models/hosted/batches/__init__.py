"""Batch endpoints: many requests at half the price, within a day."""
