"""Tests of the page `Connections`, over HTTP and in a real browser."""
