"""The Dagster adapters, thin: one file per Dagster noun."""
