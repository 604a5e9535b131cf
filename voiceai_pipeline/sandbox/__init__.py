"""A local stand-in for HighLevel: the same contract, invented data, faults on demand.

Used by the demo, the tests and the benchmarks. Nothing in here is imported by the pipeline, and
nothing in here knows the pipeline: the two meet over HTTP only. Import the concrete submodules.
"""
