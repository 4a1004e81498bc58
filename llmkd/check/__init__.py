"""Looks a recipe over before it is run."""
