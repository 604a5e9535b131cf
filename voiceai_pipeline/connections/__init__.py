"""A user's OAuth connection from consent to disconnect: tokens, refresh, audit, alerts."""
