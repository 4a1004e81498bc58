"""Smaller models out of trained ones: whole layers, channels and heads are left out."""
