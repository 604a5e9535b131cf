"""``python -m voiceai_pipeline_tests.canary.debugged MODULE ...``: a program with every logger at
DEBUG on stderr, as someone sets who looks for a fault."""

import logging
import runpy
import sys

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
# SQLAlchemy sets a level of its own.
logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
