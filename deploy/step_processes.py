"""The same definitions with a process per step, for a deployment that wants them apart.

Load this file instead of the package: `dagster code-server start --python-file step_processes.py`.
Any executor may stand here, such as `dagster_k8s.k8s_job_executor` for a pod per step. The package
itself runs the steps of a run in the run's own process: a process per step costs seconds, and the
work waits for the network anyway.
"""

import dagster as dg

from voiceai_pipeline import definitions

defs = dg.Definitions(
    assets=definitions.defs.assets,
    asset_checks=definitions.defs.asset_checks,
    jobs=definitions.defs.jobs,
    schedules=definitions.defs.schedules,
    sensors=definitions.defs.sensors,
    resources=definitions.defs.resources,
    executor=dg.multiprocess_executor,
)
