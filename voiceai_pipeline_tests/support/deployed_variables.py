"""Which variables in ``deploy/`` are not ours, and which of ours not everything needs."""

OTHERS = {
    "DAGSTER_HOME": "Dagster: the folder of dagster.yaml",
    "DAGSTER_CURRENT_IMAGE": "Dagster: the image of the runs of a code server",
    "DAGSTER_CELERY_BROKER_URL": "celery/: the broker of launcher and workers",
    "DAGSTER_PG_PASSWORD": "Dagster's chart: the password of its database",
    "POSTGRES_PASSWORD": "the image postgres",
    "POSTGRES_USER": "the image postgres",
    "DAGSTER_PASSWORD": "databases.sh: of the login of Dagster",
    "VOICEAI_OWNER_PASSWORD": "databases.sh: of the login that migrates",
    "VOICEAI_APP_PASSWORD": "databases.sh: of the login that runs the product",
}
PAGE_ONLY = {
    "HIGHLEVEL_APP_URL",
    "HIGHLEVEL_WEBHOOK_KEYS",
    "VOICEAI_PAGE_HOST",
    "VOICEAI_PAGE_PORT",
    "VOICEAI_PAGE_SECRET",
    "VOICEAI_ANALYST_CONTENT",
    "VOICEAI_ANALYST_SECRET",
    "VOICEAI_TRUSTED_PROXIES",
    "VOICEAI_DAGSTER_KEY",
    "VOICEAI_API_KEY",
    "VOICEAI_ALLOWED_ORIGINS",
    "VOICEAI_JWKS_URL",
    "VOICEAI_JWT_AUDIENCE",
}
MIGRATE_ONLY = {"VOICEAI_OWNER_DATABASE_URL"}
