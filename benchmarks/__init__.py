"""Benchmarks: measured, never tested. Among them are the speed against other loaders (``speed``)
and the growth of Dagster's tables (``dagster_growth``). They are run by hand; README.md and
docs/performance.md have the figures.
"""
