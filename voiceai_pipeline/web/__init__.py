"""The Connections page and ``/functions/v1``, and the monitor of Dagster's daemon.

Requests, forms and responses only: the packages below manage tokens and read calls, and a sync is
launched as a Dagster run.
"""
