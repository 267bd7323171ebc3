"""Backups of a data folder while it is in use, and folders made of them."""
