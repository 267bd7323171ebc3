"""Routing: rules that send published events on to further streams, change them, or put them aside."""
