"""What is measured, never tested: speed against others (``speed``), what Dagster's tables grow by
(``dagster_growth``). Run by hand; the figures stand in README.md and docs/performance.md.
"""
