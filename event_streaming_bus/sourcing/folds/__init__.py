"""Folds: what makes the state of an aggregate of its events."""
