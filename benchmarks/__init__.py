"""What iaflow costs, measured beside its references in the same minutes.

Decides nothing for the product and ships in no wheel. Run as ``python -m benchmarks``.
"""
