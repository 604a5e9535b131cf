"""Connecting, schema, migrations, views, roles, and the embedded server."""
