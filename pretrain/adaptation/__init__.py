"""Adapting a trained model to sessions it never saw: what moves, what holds it, and what is said of it."""
