"""Ordered, append-only, chained: what the broker stores and what a member keeps a replica of."""
