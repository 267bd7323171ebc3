"""Folds: what processors with state compute, as pure functions of events in the order of their times."""
