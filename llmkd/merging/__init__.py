"""Several models of one shape made into one, weight by weight."""
