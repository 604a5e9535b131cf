"""The only room that knows SQL: tables, migrations, the token vault, connections, calls, ledger."""
