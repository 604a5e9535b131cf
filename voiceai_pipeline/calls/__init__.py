"""A location's days: read completely, written once, recorded truthfully."""
