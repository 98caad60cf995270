"""The half that holds the keys: it seals, opens, checks, remembers, and tells the truth."""
