"""The Celery application of a worker, with the broker that ``dagster.yaml`` names.

    celery --app worker worker --concurrency 2 --prefetch-multiplier 1 --queues dagster

``dagster-celery worker start`` reads a file of its own instead, so that launcher and worker could
mean two brokers.
"""

import os

from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_execute_job_task, create_resume_job_task

_BROKER = os.environ["DAGSTER_CELERY_BROKER_URL"]

app = make_app({"broker": _BROKER, "backend": _BROKER})
app.conf.update(
    task_default_queue="dagster",
    # See dagster.yaml: a run is acknowledged as it begins.
    task_acks_late=False,
    worker_prefetch_multiplier=1,
    # A run that leaks memory does so for fifty runs at most.
    worker_max_tasks_per_child=50,
    broker_connection_retry_on_startup=True,
)

execute_job = create_execute_job_task(app)
resume_job = create_resume_job_task(app)
