"""Slow reference implementations: the formulas as they are written, one plain loop each.

Nothing here imports ``seqdistill``, and nothing is regrouped for speed or for floating point: the
mpmath functions carry so many digits that the naive formulas are exact (:mod:`.arithmetic`). Tests
hold the package against them; benchmarks use :mod:`.float64`, the naive vectorised form.
"""
