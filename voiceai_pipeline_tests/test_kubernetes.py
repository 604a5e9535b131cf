"""deploy/kubernetes: manifests as the cluster would check them, and values as Dagster's chart reads
them, as far as that goes without a cluster and without Helm.
"""

from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.settings import CALLBACK_PATH, VARIABLES
from voiceai_pipeline_tests.support.deployed_variables import MIGRATE_ONLY, OTHERS, PAGE_ONLY

FOLDER = PROJECT / "deploy" / "kubernetes"
RELEASE = "1.37.0"
"""The newest release of Kubernetes whose schemas are installed."""

VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text())
OURS: list[dict[str, Any]] = list(yaml.safe_load_all((FOLDER / "voiceai.yaml").read_text()))
SECRETS: list[dict[str, Any]] = list(
    yaml.safe_load_all((FOLDER / "secrets.example.yaml").read_text())
)
OF_SECRET = {one["metadata"]["name"]: set(one["stringData"]) for one in SECRETS}

_KEYS = yaml.safe_load((PROJECT / "voiceai_pipeline_tests/data/helm_chart_keys.yaml").read_text())
CHART = {
    section: {*keys, *(_KEYS["pod"] if "<pod>" in keys else ())}
    for section, keys in _KEYS["sections"].items()
}
"""Which keys the chart's schema allows, by section."""


def _at(path: str) -> dict[str, Any]:
    found: Any = VALUES
    for key in filter(None, path.split(".")):
        found = found[key]
    return dict(found)


def _of(kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in OURS if one["kind"] == kind}


def _pods() -> dict[str, dict[str, Any]]:
    """The pod of each Deployment and Job of ours, by name."""
    owners = _of("Deployment") | _of("Job")
    return {name: one["spec"]["template"]["spec"] for name, one in owners.items()}


@pytest.mark.parametrize(
    "manifest", OURS + SECRETS, ids=lambda one: f"{one['kind']}/{one['metadata']['name']}"
)
def test_every_manifest_is_one_that_the_cluster_knows_field_by_field(
    manifest: dict[str, Any],
) -> None:
    validate(manifest, RELEASE, strict=True)
    assert manifest["metadata"]["namespace"] == "voiceai"


def test_every_variable_is_one_of_ours_and_reaches_only_who_needs_it() -> None:
    settings = set(_of("ConfigMap")["voiceai-settings"]["data"])
    named = settings.union(*OF_SECRET.values())
    assert named - VARIABLES.keys() - OTHERS.keys() == {"postgresql-password"}
    assert not any(name in str(settings) for name in ("SECRET", "KEY", "DATABASE"))
    given = {
        name: {
            ref.get("secretRef", ref.get("configMapRef"))["name"]
            for ref in pod["containers"][0].get("envFrom", ())
        }
        for name, pod in _pods().items()
    }
    assert given == {
        "voiceai-migrate": {"voiceai-settings", "voiceai-secrets", "voiceai-owner"},
        "voiceai-web": {
            "voiceai-settings",
            "voiceai-secrets",
            "voiceai-page",
            "voiceai-dagster-key",
        },
        "dagster-ui": {"voiceai-dagster-key"},
        "dagster-ui-for-analysts": {"voiceai-dagster-key"},
    }
    assert OF_SECRET["voiceai-owner"] == MIGRATE_ONLY
    assert OF_SECRET["voiceai-page"] | OF_SECRET["voiceai-dagster-key"] <= PAGE_ONLY
    runs = _at("runLauncher.config.k8sRunLauncher")
    for part in (runs, _at("dagsterDaemon"), VALUES["dagster-user-deployments"]["deployments"][0]):
        assert part["envSecrets"] == [{"name": "voiceai-secrets"}]
        assert part["envConfigMaps"] == [{"name": "voiceai-settings"}]


def test_every_pod_of_ours_is_watched_limited_and_without_rights_that_it_does_not_need() -> None:
    accounts = _of("ServiceAccount")
    for name, pod in _pods().items():
        (container,) = pod["containers"]
        assert pod["enableServiceLinks"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"]["memory"]
        assert pod["serviceAccountName"] in accounts
        # Only terminating a run from the UI asks anything of the cluster.
        assert pod.get("automountServiceAccountToken", True) is (name == "dagster-ui")
        if name != "voiceai-migrate":
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    runs = _at("runLauncher.config.k8sRunLauncher.runK8sConfig")["podSpecConfig"]
    assert runs["service_account_name"] == "voiceai-run"
    assert runs["automount_service_account_token"] is False
    assert runs["enable_service_links"] is False
    bound = {subject["name"] for one in _of("RoleBinding").values() for subject in one["subjects"]}
    assert bound == {"voiceai-ui"}
    assert not any("create" in rule["verbs"] for rule in _of("Role")["voiceai-ui"]["rules"])


def test_only_the_page_is_published_under_the_paths_that_highlevel_uses() -> None:
    (ingress,) = _of("Ingress").values()
    (rule,) = ingress["spec"]["rules"]
    paths = {path["path"]: path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
    assert paths == {CALLBACK_PATH: "voiceai-web", "/webhooks": "voiceai-web", "/": "voiceai-web"}
    settings = _of("ConfigMap")["voiceai-settings"]["data"]
    assert settings["VOICEAI_PAGE_URL"] == f"https://{rule['host']}"
    assert settings["HIGHLEVEL_REDIRECT_URI"] == f"https://{rule['host']}{CALLBACK_PATH}"
    heard = _of("NetworkPolicy")["dagster-ui"]["spec"]
    assert heard["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"app": "voiceai-web"}}}]
    uis = set(heard["podSelector"]["matchExpressions"][0]["values"])
    assert uis == {name for name in _pods() if name.startswith("dagster-ui")}
    services = _of("Service")
    assert uis | {"voiceai-web"} == services.keys()
    assert _at("dagsterWebserver")["replicaCount"] == 0


@pytest.mark.parametrize("section", CHART)
def test_the_values_are_keys_of_the_chart(section: str) -> None:
    if section == "deployment":
        (found,) = VALUES["dagster-user-deployments"]["deployments"]
    else:
        found = _at(section)
    assert found.keys() - CHART[section] == set()


def test_the_chart_writes_the_instance_that_the_image_contains() -> None:
    """``dagster.yaml`` is for who starts the processes without Helm."""
    here = yaml.safe_load((FOLDER / "dagster.yaml").read_text())
    there = _instance()
    del here["storage"]  # one URL there, its parts here
    launcher, ours = there["run_launcher"]["config"], here["run_launcher"]["config"]
    pod = launcher["run_k8s_config"]["pod_spec_config"]
    assert {**pod, **ours["run_k8s_config"]["pod_spec_config"]} == pod
    for key in ("env_secrets", "env_config_maps", "volumes", "volume_mounts", "resources"):
        assert launcher[key] == ours[key], key
    assert launcher["dagster_home"] == ours["dagster_home"]
    for part in here.keys() - {"run_launcher"}:
        assert there[part] == here[part], part


def _instance() -> dict[str, Any]:
    """``dagster.yaml`` as the chart's templates write it from the values."""
    daemon, launcher = VALUES["dagsterDaemon"], _at("runLauncher.config.k8sRunLauncher")
    monitoring, retries = daemon["runMonitoring"], daemon["runRetries"]
    more = VALUES["additionalInstanceConfig"]
    assert monitoring["maxResumeRunAttempts"] == 0
    assert daemon["runCoordinator"] == {"enabled": False}  # Dagster refuses it beside concurrency
    return more | {
        "run_launcher": {
            "config": {
                "dagster_home": VALUES["global"]["dagsterHome"],
                "env_config_maps": [one["name"] for one in launcher["envConfigMaps"]],
                "env_secrets": [one["name"] for one in launcher["envSecrets"]],
                "volumes": launcher["volumes"],
                "volume_mounts": launcher["volumeMounts"],
                "resources": launcher["resources"],
                "run_k8s_config": {"pod_spec_config": launcher["runK8sConfig"]["podSpecConfig"]},
            }
        },
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": VALUES["computeLogManager"]["type"],
        },
        "python_logs": {"managed_python_loggers": VALUES["pythonLogs"]["managedPythonLoggers"]},
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "poll_interval_seconds": monitoring["pollIntervalSeconds"],
            "max_runtime_seconds": monitoring["maxRuntimeSeconds"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
        },
        "run_retries": {
            "enabled": retries["enabled"],
            "max_retries": retries["maxRetries"],
            "retry_on_asset_or_op_failure": retries["retryOnAssetOrOpFailure"],
        },
        "retention": {
            name: {"purge_after_days": VALUES["retention"][name]["purgeAfterDays"]}
            for name in ("schedule", "sensor")
        },
        "telemetry": VALUES["telemetry"],
    }
