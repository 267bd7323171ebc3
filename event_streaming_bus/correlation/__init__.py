"""Correlation and causation: what followed from an event, what led to it, and what belongs together."""
