"""The files of `tools/serving/`: the server's own messages, and what they agree on."""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from tests.support import stand_in, tiny

FOLDER = tiny.ROOT / "tools" / "serving"
CHECK = FOLDER / "check_model_server.sh"

# tensorflow-serving-api has no classes for these two. Names, types and numbers are
# those of session_bundle_config.proto and monitoring_config.proto, 2.20.0.
_WRAPPED = ".google.protobuf.Int64Value"
_FIELDS = {
    "BatchingParameters": [
        ("max_batch_size", 1, _WRAPPED, False),
        ("batch_timeout_micros", 2, _WRAPPED, False),
        ("max_enqueued_batches", 3, _WRAPPED, False),
        ("num_batch_threads", 4, _WRAPPED, False),
        ("allowed_batch_sizes", 6, "int64", True),
    ],
    "PrometheusConfig": [("enable", 1, "bool", False), ("path", 2, "string", False)],
    "MonitoringConfig": [("prometheus_config", 1, ".t.PrometheusConfig", False)],
}
_TYPES = {"int64": 3, "bool": 8, "string": 9}


def _message(name):
    """An empty message of one of these."""
    file = descriptor_pb2.FileDescriptorProto(
        name="t.proto",
        package="t",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for field, number, kind, repeated in fields:
            label = 3 if repeated else 1
            added = described.field.add(name=field, number=number, label=label)
            if kind.startswith("."):
                added.type, added.type_name = 11, kind
            else:
                added.type = _TYPES[kind]
    pool = descriptor_pool.DescriptorPool()
    wrappers = descriptor_pb2.FileDescriptorProto()
    wrappers_pb2.DESCRIPTOR.CopyToProto(wrappers)
    pool.Add(wrappers)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"t.{name}"))()


def _parsed(file, message):
    return text_format.Parse((FOLDER / file).read_text(), message)


def _models():
    from tensorflow_serving.config import model_server_config_pb2

    found = _parsed("models.config", model_server_config_pb2.ModelServerConfig())
    return found.model_config_list.config


@pytest.mark.needs("tensorflow_serving")
def test_models_config_serves_the_newest_version():
    (model,) = _models()
    assert (model.name, model.base_path) == ("vit", "/models/vit")
    assert model.model_platform == "tensorflow"
    assert model.model_version_policy.latest.num_versions == 1


def test_batching_config_keeps_the_servers_rules():
    found = _parsed("batching.config", _message("BatchingParameters"))
    sizes = list(found.allowed_batch_sizes)
    assert sizes == sorted(set(sizes)) and sizes[-1] == found.max_batch_size.value
    assert found.num_batch_threads.value >= 1
    assert found.batch_timeout_micros.value < 100_000
    client = (tiny.ROOT / "tools" / "predict_client.py").read_text()
    (sent,) = re.findall(r"define_batch_size\(\s*(\d+),", client)
    assert int(sent) <= found.max_batch_size.value


def test_monitoring_config_turns_prometheus_on():
    found = _parsed("monitoring.config", _message("MonitoringConfig"))
    assert found.prometheus_config.enable
    assert found.prometheus_config.path.startswith("/")


def test_a_mistyped_field_would_be_seen():
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        text_format.Parse("max_batchsize { value: 1 }", _message("BatchingParameters"))


def _yaml(name):
    import yaml

    return [part for part in yaml.safe_load_all((FOLDER / name).read_text()) if part]


def _config_files(flags):
    """Files that the server is told to read, and all of its flags."""
    found = dict(flag.removeprefix("--").split("=") for flag in flags)
    return {v for v in found.values() if v.startswith("/config/")}, found


# Flags of tensorflow_serving/model_servers/main.cc, 2.20.0.
_KNOWN = {
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "file_system_poll_wait_seconds",
    "enable_batching",
    "batching_parameters_file",
    "monitoring_config_file",
    "enable_model_warmup",
    "enable_grpc_healthcheck_service",
}


@pytest.mark.needs("yaml")
def test_compose_mounts_what_its_flags_name():
    (found,) = _yaml("compose.yaml")
    service = found["services"]["vit"]
    files, flags = _config_files(service["command"])
    assert flags.keys() <= _KNOWN
    mounts = dict(v.rsplit(":", 2)[:2] for v in service["volumes"])
    inside = {to: source for source, to in mounts.items()}
    assert files <= inside.keys() and "/models" in inside
    for name in files:
        assert (FOLDER / inside[name]).is_file()
    assert service["ports"] == ["8500:8500", "8501:8501"]


@pytest.mark.needs("yaml")
def test_kubernetes_says_the_same_as_compose():
    (compose,) = _yaml("compose.yaml")
    deployment, service = _yaml("kubernetes.yaml")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    other = compose["services"]["vit"]
    assert container["args"] == other["command"]
    assert container["image"] == other["image"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    ports = {p["name"]: p["containerPort"] for p in container["ports"]}
    assert ports == {p["name"]: p["port"] for p in service["spec"]["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (where,) = {"httpGet", "tcpSocket"} & container[probe].keys()
        assert container[probe][where]["port"] in ports
    volumes = {v["name"] for v in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


def test_one_image_everywhere():
    places = [*FOLDER.iterdir(), tiny.ROOT / "docs" / "serving.md"]
    texts = [path.read_text() for path in places if path.is_file()]
    tags = re.findall(r"tensorflow/serving:([\w.-]+)", "\n".join(texts))
    assert len(tags) >= 3 and len(set(tags)) == 1


def _check(*arguments, path, **env):
    return subprocess.run(
        [CHECK, *map(str, arguments)],
        check=False,
        env={**os.environ, "PATH": path, "PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def folders(tmp_path):
    """An export's stand-in, and images."""
    stand_in.save(tmp_path / "toy", 3)
    (tmp_path / "photos").mkdir()
    for i in range(5):
        image = stand_in.png((40 * i, 90, 10))
        (tmp_path / "photos" / f"{i}.png").write_bytes(image)
    return tmp_path / "toy", tmp_path / "photos"


def test_without_a_server_the_check_says_so_in_a_line(folders, tmp_path):
    tools = tmp_path / "bin"  # the shell's own, but no server and no docker
    tools.mkdir()
    for name in ("bash", "env", "dirname", "basename"):
        (tools / name).symlink_to(shutil.which(name))
    done = _check(*folders, path=str(tools))
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("cannot check: neither the program tensorflow_model_server")
    done = _check(tmp_path, tmp_path, path=str(tools))
    assert done.returncode == 2 and "no version with a saved_model.pb" in done.stderr


@pytest.mark.slow
@pytest.mark.needs("tensorflow_serving")
@pytest.mark.parametrize("broken", [False, True])
def test_the_check_itself_with_the_protocol_test_server(folders, tmp_path, broken):
    """The script's steps, with a program of the server's name that is not the server."""
    program = tmp_path / "bin" / "tensorflow_model_server"
    program.parent.mkdir()
    served = tmp_path / "other"
    if broken:  # serves something else than what is compared with
        stand_in.save(served, 3, names=("red", "blue", "green"))
    change = f'sed -i \'s|base_path: .*|base_path: "{served}"|\' "$file"\n'
    program.write_text(
        "#!/usr/bin/env bash\n"
        'for flag in "$@"; do case $flag in --model_config_file=*) '
        "file=${flag#*=};; esac; done\n"
        f"{change if broken else ''}"
        f'exec {sys.executable} {tiny.ROOT}/tests/protocol_server.py "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    path = f"{program.parent}:{os.environ['PATH']}"
    ports = {"GRPC_PORT": "18610", "REST_PORT": "18611"}
    done = _check(*folders, path=path, TMPDIR=str(tmp_path), **ports)
    if broken:
        assert done.returncode == 1, done.stdout + done.stderr
        assert "WRONG: gRPC" in done.stderr and "blue, not green" in done.stderr
    else:
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("RIGHT (binary): 6 images by gRPC and REST, 1 un")
