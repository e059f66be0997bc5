"""The nouns that every room shares: statuses and records.

Decides nothing; never imports a room above. Called by everybody.
"""
