"""The pages and ``/functions/v1``. It decides nothing about tokens or syncs: it asks the
rooms below, and launches a sync as a Dagster run.
"""
