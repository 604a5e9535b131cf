"""Which stored tokens a connection's state is about: another application may replace them."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.execute("ALTER TABLE api_keys ADD COLUMN IF NOT EXISTS tokens_mark text")
    op.execute(
        "UPDATE api_keys SET tokens_mark = encode(sha256(convert_to("
        "coalesce(access_token, '') || '|' || coalesce(refresh_token, ''), 'UTF8')), 'hex') "
        "WHERE connection_state IS NOT NULL AND tokens_mark IS NULL"
    )
