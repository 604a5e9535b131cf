"""The commands, and running everything on one machine."""
