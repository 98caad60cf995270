"""The half that must not be trusted: it relays and stores envelopes it cannot open.

Nothing here imports keys, seal or body of the protocol (a test holds that).
"""
