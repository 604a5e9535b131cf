#!/bin/sh
# Run once by the image, on an empty volume. Three logins: the owner migrates, the application runs
# and owns nothing, Dagster has a database of its own (each has an alembic_version).
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set owner="$VOICEAI_OWNER_PASSWORD" --set app="$VOICEAI_APP_PASSWORD" \
  --set dagster="$DAGSTER_PASSWORD" <<'SQL'
CREATE ROLE voiceai_app NOLOGIN;
CREATE ROLE voiceai_analyst NOLOGIN;
CREATE ROLE voiceai_analyst_content NOLOGIN;
CREATE ROLE voiceai_owner LOGIN PASSWORD :'owner';
CREATE ROLE voiceai_runtime LOGIN PASSWORD :'app' IN ROLE voiceai_app;
CREATE ROLE dagster LOGIN PASSWORD :'dagster';
CREATE DATABASE voiceai OWNER voiceai_owner;
CREATE DATABASE dagster OWNER dagster;
REVOKE CONNECT ON DATABASE dagster FROM PUBLIC;
SQL
