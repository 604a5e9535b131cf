"""The mutations of the installed release of Dagster: what a user can change in its UI."""

REPOSITORY = 'repositoryLocationName: "voiceai_pipeline", repositoryName: "__repository__"'
MUTATIONS = {
    "launchRun": 'executionParams: {selector: {REPOSITORY, jobName: "sync_calls"}}',
    "launchPartitionBackfill": 'backfillParams: {assetSelection: [{path: ["call_logs"]}], '
    'partitionNames: ["DAY"]}',
    "startSensor": 'sensorSelector: {REPOSITORY, sensorName: "expiring_tokens"}',
    "sensorDryRun": 'cursor: "x", selectorData: {REPOSITORY, sensorName: "expiring_tokens"}',
    "setSensorCursor": 'cursor: "x", sensorSelector: {REPOSITORY, sensorName: "expiring_tokens"}',
    "startSchedule": 'scheduleSelector: {REPOSITORY, scheduleName: "old_runs_every_night"}',
    "wipeAssets": 'assetPartitionRanges: [{assetKey: {path: ["call_logs"]}}]',
    "reportRunlessAssetEvents": "eventParams: {eventType: ASSET_MATERIALIZATION, "
    'assetKey: {path: ["call_logs"]}, partitionKeys: ["DAY"]}',
    "addDynamicPartition": 'repositorySelector: {REPOSITORY}, partitionsDefName: "users", '
    'partitionKey: "x"',
    "terminateRun": 'runId: "RUN"',
    "deleteRun": 'runId: "RUN"',
    "reloadRepositoryLocation": 'repositoryLocationName: "voiceai_pipeline"',
    "reloadWorkspace": "",
}
"""Mutations with arguments. DAY and RUN stand for existing ones."""

REFUSED_LIKEWISE = {
    "cancelPartitionBackfill",
    "deleteAppManagedComponent",
    "deleteConcurrencyLimit",
    "deleteDynamicPartitions",
    "deletePipelineRun",
    "freeConcurrencySlots",
    "freeConcurrencySlotsForRun",
    "launchMultipleRuns",
    "launchPipelineExecution",
    "launchPipelineReexecution",
    "launchRunReexecution",
    "reexecutePartitionBackfill",
    "refreshComponentState",
    "reportAssetCheckEvaluations",
    "resetSchedule",
    "resetSensor",
    "resumePartitionBackfill",
    "scheduleDryRun",
    "setAppManagedComponent",
    "setAutoMaterializePaused",
    "setConcurrencyLimit",
    "shutdownRepositoryLocation",
    "stopRunningSchedule",
    "stopSensor",
    "terminatePipelineExecution",
    "terminateRuns",
}
"""The others that check a permission in Dagster's source, or every one of their items."""

HARMLESS = {"logTelemetry", "setNuxSeen"}
"""Check none, and change nothing that anyone can see."""
