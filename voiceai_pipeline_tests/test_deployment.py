"""deploy/: the examples are read as Dagster and Docker read them, as far as that goes without a
cluster and without packages that only a deployment needs.
"""

import re
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load import location_origins_from_yaml_paths

from voiceai_pipeline.cli.up import PROJECT
from voiceai_pipeline.core.settings import VARIABLES, Settings
from voiceai_pipeline.database import grants
from voiceai_pipeline.database.embedded import EmbeddedPostgres
from voiceai_pipeline_tests.support.deployed_variables import MIGRATE_ONLY, OTHERS, PAGE_ONLY

DEPLOY = PROJECT / "deploy"
TARGETS = ("docker", "kubernetes", "celery")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text())

RELEASE = "0.29.27"
LAUNCHERS = {
    "docker": (
        ("dagster_docker", "DockerRunLauncher"),
        {"image", "network", "registry", "env_vars", "container_kwargs", "networks"},
    ),
    "kubernetes": (
        ("dagster_k8s", "K8sRunLauncher"),
        {
            "job_image",
            "image_pull_policy",
            "image_pull_secrets",
            "service_account_name",
            "env_config_maps",
            "env_secrets",
            "env_vars",
            "volume_mounts",
            "volumes",
            "labels",
            "resources",
            "scheduler_name",
            "security_context",
            "instance_config_map",
            "postgres_password_secret",
            "dagster_home",
            "load_incluster_config",
            "kubeconfig_file",
            "k8s_api_ssl_ca_cert_file",
            "fail_pod_on_run_failure",
            "run_k8s_config",
            "job_namespace",
            "only_allow_user_defined_k8s_config_fields",
            "only_allow_user_defined_env_vars",
        },
    ),
    "celery": (
        ("dagster_celery.launcher", "CeleryRunLauncher"),
        {"broker", "backend", "include", "default_queue", "config_source"},
    ),
}
"""Class and config keys, as ``config_type()`` of the release lists them. The packages themselves
bring Docker's and Kubernetes' clients along: too much for a test of two files."""

OF_THE_IMAGE = {"VOICEAI_HOME"}
FOR_TRYING_OUT = {
    "VOICEAI_SANDBOX_PORT",
    "VOICEAI_SQL_PORT",
    "HIGHLEVEL_AUTH_URL",
    "HIGHLEVEL_TOKEN_URL",
    "HIGHLEVEL_API_URL",
}


def _instance_config(target: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((DEPLOY / target / "dagster.yaml").read_text())
    return config


@pytest.mark.parametrize("target", TARGETS)
def test_dagster_accepts_the_instance_and_opens_it_without_the_launcher(
    target: str, tmp_path: Path, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    dagster_instance_config(str(DEPLOY / target))  # raises if a key is unknown
    postgres.create_database(f"deploy_{target}")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", postgres.url(f"deploy_{target}", driver="psycopg2"))
    config = _instance_config(target)
    del config["run_launcher"]
    for part in ("local_artifact_storage", "compute_logs"):
        if "config" in config[part]:
            config[part]["config"]["base_dir"] = str(tmp_path / part)
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_runs() == []
        assert instance.run_monitoring_enabled
        assert type(instance.compute_log_manager).__name__ == config["compute_logs"]["class"]
        assert instance.get_concurrency_config().pool_config.default_pool_limit == 2


@pytest.mark.parametrize("target", TARGETS)
def test_the_instance_differs_from_the_one_of_make_up_only_where_machines_matter(
    target: str,
) -> None:
    here: dict[str, Any] = yaml.safe_load((PROJECT / "dagster.yaml").read_text())
    there = _instance_config(target)
    where = {"storage", "run_launcher", "local_artifact_storage", "compute_logs", "code_servers"}
    assert here.keys() - where == there.keys() - where
    # A container without DAGSTER_POSTGRES_URL must not start a server of its own.
    assert there["storage"] == {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}
    here["run_monitoring"]["start_timeout_seconds"] = 900 if target == "celery" else 300
    for part in here.keys() - where:
        assert there[part] == here[part], part


@pytest.mark.parametrize("target", TARGETS)
def test_the_launcher_is_configured_by_keys_that_its_release_has(target: str) -> None:
    launcher = _instance_config(target)["run_launcher"]
    named, keys = LAUNCHERS[target]
    assert (launcher["module"], launcher["class"]) == named
    assert launcher["config"].keys() <= keys


def test_the_launchers_release_is_the_one_of_our_other_dagster_packages() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert f"dagster-postgres=={RELEASE}" in project["dependencies"]
    extras = project["optional-dependencies"]
    for extra in ("docker", "k8s"):
        assert extras[extra] == [f"dagster-{extra}=={RELEASE}"]
    assert extras["celery"] == [f"dagster-celery[redis]=={RELEASE}"]
    packages = ("dagster-docker", "dagster-k8s", "dagster-celery")
    for target, launcher in zip(TARGETS, packages, strict=True):
        lock = (DEPLOY / f"requirements-{target}.lock").read_text()
        assert re.search(rf"^{launcher}(\[redis\])?=={re.escape(RELEASE)} ", lock, re.M)
        assert RELEASE in (DEPLOY / target / "dagster.yaml").read_text()


@pytest.mark.parametrize("target", ["docker", "kubernetes"])
def test_the_workspace_asks_one_code_server_under_our_name(target: str) -> None:
    origins = location_origins_from_yaml_paths([str(DEPLOY / target / "workspace.yaml")])
    (origin,) = origins
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    assert origin.location_name == "voiceai_pipeline"
    assert origin.port == 4000
    if target == "docker":
        assert origin.host in COMPOSE["services"]


def test_every_variable_in_deploy_is_ours_dagsters_or_of_an_image_used() -> None:
    named = {
        name
        for path in DEPLOY.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
        for name in re.findall(
            r"\b(?:VOICEAI|HIGHLEVEL|DAGSTER|POSTGRES)_[A-Z_]+\b", path.read_text()
        )
    }
    assert named - VARIABLES.keys() - OTHERS.keys() == set()


def test_every_variable_of_ours_reaches_the_service_that_needs_it() -> None:
    everywhere = VARIABLES.keys() - PAGE_ONLY - OF_THE_IMAGE - FOR_TRYING_OUT - MIGRATE_ONLY
    runs = _instance_config("docker")["run_launcher"]["config"]["env_vars"]
    services = COMPOSE["services"]
    assert set(runs) == everywhere
    assert services["daemon"]["environment"].keys() >= set(runs)
    assert services["code"]["environment"].keys() >= everywhere
    assert services["page"]["environment"].keys() >= everywhere | PAGE_ONLY - {"VOICEAI_PAGE_PORT"}


def test_what_is_secret_comes_from_the_environment_and_reaches_no_dagster_ui() -> None:
    for name, service in COMPOSE["services"].items():
        for variable, value in service.get("environment", {}).items():
            if variable not in ("VOICEAI_PAGE_HOST", "DAGSTER_CURRENT_IMAGE"):
                assert re.fullmatch(rf"\$\{{{variable}:(\?|-)\}}", value), (name, variable)
        if name.startswith("dagster-ui"):
            assert service["environment"].keys() == {
                "DAGSTER_POSTGRES_URL",
                "VOICEAI_DAGSTER_KEY",
                "VOICEAI_PAGE_URL",
            }


def test_only_migrate_knows_the_login_that_may_change_tables() -> None:
    services = COMPOSE["services"]
    knowing = [
        name for name in services if set(services[name].get("environment", ())) >= MIGRATE_ONLY
    ]
    assert knowing == ["migrate"]
    script = (DEPLOY / "docker" / "databases.sh").read_text()
    assert "CREATE ROLE voiceai_runtime LOGIN PASSWORD :'app' IN ROLE voiceai_app" in script
    assert all(f"CREATE ROLE {role} NOLOGIN" in script for role in (*grants.ROLES, grants.APP))


def test_only_the_page_is_published_and_analysts_can_only_read() -> None:
    ports = {
        name: service["ports"]
        for name, service in COMPOSE["services"].items()
        if "ports" in service
    }
    assert ports.keys() == {"page"}
    assert all(port.startswith("127.0.0.1:") for port in ports["page"])
    page = COMPOSE["services"]["page"]["command"]
    upstreams = {page[i + 1] for i, word in enumerate(page) if word.startswith("--dagster")}
    assert upstreams == {"http://dagster-ui:3000", "http://dagster-ui-for-analysts:3000"}
    analysts = COMPOSE["services"]["dagster-ui-for-analysts"]
    assert "--read-only" in analysts["command"]
    assert not any("docker.sock" in volume for volume in analysts["volumes"])


def test_runs_and_the_page_keep_token_pairs_on_the_same_volume() -> None:
    volumes = _instance_config("docker")["run_launcher"]["config"]["container_kwargs"]["volumes"]
    spool = "voiceai-home:/var/lib/voiceai"
    assert spool in volumes
    assert spool in COMPOSE["services"]["page"]["volumes"]
    for volume in volumes:
        name = volume.partition(":")[0]
        assert COMPOSE["volumes"][name] == {"name": name}  # else compose prefixes it
    assert "VOICEAI_HOME=/var/lib/voiceai" in (DEPLOY / "Dockerfile").read_text()
    mounts = _instance_config("kubernetes")["run_launcher"]["config"]["volume_mounts"]
    assert {"name": "voiceai-home", "mountPath": "/var/lib/voiceai"} in mounts


def test_every_process_is_a_plain_user_with_a_read_only_root_file_system() -> None:
    hardened = {
        "user": "10001",
        "read_only": True,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }
    assert "USER 10001\n" in (DEPLOY / "Dockerfile").read_text()
    for name, service in COMPOSE["services"].items():
        if name == "postgres":  # its image starts as root to set up the volume
            assert service["security_opt"] == hardened["security_opt"]
            continue
        assert {key: service.get(key) for key in hardened} == hardened, name
        writable = {volume.split(":")[1] for volume in service.get("volumes", ())}
        gone = {place.partition(":")[0] for place in service["tmpfs"]}
        assert {"/tmp", "/var/lib/dagster"} <= writable | gone, name  # noqa: S108
        assert not writable & gone, name  # Docker refuses two at one place
    docker = _instance_config("docker")["run_launcher"]["config"]["container_kwargs"]
    assert {key: docker.get(key) for key in hardened} == hardened
    kubernetes = _instance_config("kubernetes")["run_launcher"]["config"]
    places = {mount["mountPath"] for mount in kubernetes["volume_mounts"]}
    assert places == {"/tmp", "/var/lib/dagster", "/var/lib/voiceai"}  # noqa: S108
    pod = kubernetes["run_k8s_config"]
    assert pod["pod_spec_config"]["security_context"]["run_as_user"] == 10001
    assert pod["container_config"]["security_context"] == {
        "read_only_root_filesystem": True,
        "allow_privilege_escalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_empty_values_as_compose_sets_them_count_as_unset() -> None:
    environment = {
        variable: "" if value.endswith("-}") else value
        for variable, value in COMPOSE["services"]["daemon"]["environment"].items()
    }
    given = {
        "DAGSTER_POSTGRES_URL": "postgresql+psycopg2://u:p@postgres/dagster",
        "VOICEAI_DATABASE_URL": "postgresql://u:p@postgres/voiceai",
        "VOICEAI_TOKEN_KEYS": "k1:a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
        "VOICEAI_PAGE_URL": "https://voice.test",
        "HIGHLEVEL_CLIENT_ID": "id",
        "HIGHLEVEL_CLIENT_SECRET": "secret",
        "HIGHLEVEL_REDIRECT_URI": "https://voice.test/oauth/callback",
    }
    required = {name for name, value in environment.items() if value}
    assert required == given.keys()
    assert not Settings.load({**environment, **given}).highlevel.is_sandbox


def test_the_readme_of_deploy_names_every_process() -> None:
    readme = (DEPLOY / "README.md").read_text()
    rows = set(re.findall(r"^\| `([a-z-]+)`", readme, re.MULTILINE))
    assert rows == COMPOSE["services"].keys() | {"run"}


def test_every_package_of_every_lock_and_image_is_pinned_by_hash() -> None:
    locks = [*PROJECT.glob("*.lock"), *DEPLOY.glob("*.lock")]
    assert len(locks) >= 7
    for lock in locks:
        pins = re.findall(
            r"^[A-Za-z0-9][^\n]*(?:\n    --hash=\S+(?: \\)?)*", lock.read_text(), re.M
        )
        assert pins
        assert [pin for pin in pins if "==" not in pin or "--hash=sha256:" not in pin] == []
    installs = re.findall(r"pip install[^\n&]*", (DEPLOY / "Dockerfile").read_text())
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-deps" in command


def test_an_image_shares_every_release_with_make_up() -> None:
    def releases(lock: Path) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))

    ours = releases(PROJECT / "requirements.lock")
    for target in TARGETS:
        theirs = releases(DEPLOY / f"requirements-{target}.lock")
        assert {n: v for n, v in theirs.items() if ours.get(n, v) != v} == {}
