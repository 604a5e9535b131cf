"""HighLevel Voice AI call logs, complete and on time, in PostgreSQL.

Import the module you need (``voiceai_pipeline.sync``, ``voiceai_pipeline.tokens``, ...); nothing is
re-exported here. Imports run one way: models <- highlevel, storage <- tokens <- sync <- defs.
"""
