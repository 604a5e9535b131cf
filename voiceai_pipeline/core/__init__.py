"""The nouns and settings that every room shares. No SQL, no HTTP, no Dagster."""
