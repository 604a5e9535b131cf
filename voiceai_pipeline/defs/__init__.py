"""The Dagster wing: thin adapters between Dagster and the core, one file per Dagster noun."""
