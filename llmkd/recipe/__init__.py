"""Recipes: what a user writes."""
