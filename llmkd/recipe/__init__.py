"""Recipes: what a user writes, and how it is read."""

from llmkd.recipe.load import load, load_part, load_with_source
from llmkd.recipe.schema import Recipe

__all__ = ["Recipe", "load", "load_part", "load_with_source"]
