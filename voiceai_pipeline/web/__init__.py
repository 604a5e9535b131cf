"""The Connections page and ``/functions/v1``, and the monitor of Dagster's daemon.

Requests, forms and responses only: ``connections`` and ``calls`` do the work, and a sync is a
Dagster run.
"""
