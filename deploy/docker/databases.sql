-- The pipeline's and Dagster's are separate: each has an alembic_version.
CREATE DATABASE voiceai;
CREATE DATABASE dagster;
