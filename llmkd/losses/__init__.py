"""Distillation losses: pure functions of logits, and the chunked linear head that feeds them."""
