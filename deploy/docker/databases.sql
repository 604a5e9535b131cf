-- Ours and Dagster's, apart: both keep an alembic_version.
CREATE DATABASE voiceai;
CREATE DATABASE dagster;
