"""The pages of connections, calls and insights, ``/functions/v1``, HighLevel's webhooks, and the
way to Dagster's UI.

Requests, forms and responses only: ``connections`` and ``calls`` do the work, and a sync is a
Dagster run.
"""
