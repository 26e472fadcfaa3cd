"""Calls on whole models, and what only they need."""
