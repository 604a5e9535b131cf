"""The tests: real parts, names that are sentences. Fixtures for all are in conftest.py."""
