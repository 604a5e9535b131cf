"""HighLevel Voice AI call logs, complete and on time, in PostgreSQL.

Import the module you need (``voiceai_pipeline.calls.sync``, ...); nothing is re-exported here.
Imports run one way: core <- highlevel, database <- connections <- calls <- marts <- pipeline <-
defs <- definitions, and pipeline <- web <- cli. ``sandbox`` stands apart.
"""
