"""Metrics from stored calls, and files of them."""
