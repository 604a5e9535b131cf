"""A local stand-in for HighLevel: the same contract, invented data, faults on demand.

Used by the demo, the tests and the benchmarks. The pipeline and the sandbox share no code but
``web/server.py``, which serves an application: they meet over HTTP. Import the submodules.
"""
