"""The same definitions with a process per step, for deployments that isolate steps.

Load this file instead of the package: `dagster code-server start --python-file step_processes.py`.
Any executor can be used here, such as `dagster_k8s.k8s_job_executor` for a pod per step. The
package itself runs all steps of a run in one process, because a process per step costs seconds and
the work is mostly waiting for the network.
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
