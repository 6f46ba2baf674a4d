"""`tools.predict_client` over real gRPC and HTTP, against a protocol test server.

These are protocol tests: TensorFlow Serving itself did not take part.
"""

import base64
import csv
import json
import re
import socket
import urllib.error
import urllib.request

import grpc
import pytest

from tests.support import stand_in, warm
from vit_tf import errors
from vit_tf.serving.client import channel, grpc_channel, rest_channel, retrying

SERVER = pytest.mark.needs("tensorflow_serving")
CODE = grpc.StatusCode
COLORS = [(250, 20 + 9 * i, 9 * i) for i in range(20)]
BAD = {3: b"", 7: b"no image at all"}


@pytest.fixture(scope="module")
def exported(once):
    """FOLDER with two versions, whose second has other names."""

    def make(folder):
        stand_in.save(folder, 1)
        stand_in.save(folder, 2, names=("rot", "grün", "blau"))

    return once("stand_in", make)


@pytest.fixture(scope="module")
def started(exported):
    from tests.support import protocol_server

    with protocol_server.serving(exported) as server:
        yield server


@pytest.fixture
def server(started):
    yield started
    started.reset()


@pytest.fixture(scope="module")
def photos(once):
    """Twenty files, of which two are no images."""

    def make(folder):
        for i, color in enumerate(COLORS):
            (folder / f"{i:02}.png").write_bytes(BAD.get(i, stand_in.png(color)))

    return once("photos", make)


def _client(server, protocol, photos, to, *more):
    address = getattr(server, protocol) if hasattr(server, protocol) else server
    return warm.run(
        "-m",
        "tools.predict_client",
        f"--server={address}",
        f"--protocol={protocol}",
        f"--images={photos}",
        f"--to={to}",
        *more,
    )


def _rows(path):
    if str(path).endswith(".jsonl"):
        return [json.loads(line) for line in path.read_text().splitlines()]
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _check(rows, photos):
    """Rows of all twenty, as the stand-in's first version has them."""
    assert [row["file"] for row in rows] == [str(p) for p in sorted(photos.iterdir())]
    for i, row in enumerate(rows):
        if i in BAD:
            assert row["error"] == "not an image that this reads"
            assert not any(row.get(name) for name in ("class_1", "score_1", "score_2"))
            continue
        assert not row.get("error")
        for k, (name, score) in enumerate(stand_in.answer(COLORS[i]), 1):
            assert row[f"class_{k}"] == name
            assert float(row[f"score_{k}"]) == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@SERVER
def test_a_folder_becomes_a_table(server, photos, tmp_path, protocol, kind):
    to = tmp_path / f"found.{kind}"
    server.delay_seconds = 0.05
    done = _client(server, protocol, photos, to, "--batch_size=3", "--label=stable")
    assert done.returncode == 0, done.stderr
    _check(_rows(to), photos)
    assert sorted(server.sizes) == [2, 3, 3, 3, 3, 3, 3]
    assert 2 <= server.together <= 4  # several in flight, as many as --in_flight
    assert (
        done.stdout == f"20 images in {to}, 2 of them unreadable (see column error)\n"
    )


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@SERVER
def test_newest_version_number_and_label(server, photos, tmp_path, protocol):
    for flags, name in (
        ([], "rot"),
        (["--version=1"], "red"),
        (["--label=stable"], "red"),
        (["--version=2", "--top=1"], "rot"),
    ):
        to = tmp_path / f"{'_'.join(flags)}.jsonl"
        done = _client(server, protocol, photos / "00.png", to, *flags)
        assert done.returncode == 0, done.stderr
        (row,) = _rows(to)
        assert row["class_1"] == name and ("class_2" in row) == ("--top=1" not in flags)


@SERVER
def test_a_table_of_another_version_is_refused(server, photos, tmp_path):
    to = tmp_path / "found.csv"
    for protocol, version, code in (("grpc", 1, 0), ("rest", 1, 0), ("rest", 2, 2)):
        done = _client(server, protocol, photos / "00.png", to, f"--version={version}")
        assert done.returncode == code, done.stderr
    assert "version: 1 against 2" in done.stderr and "--overwrite" in done.stderr
    assert [row["class_1"] for row in _rows(to)] == ["red"]
    done = _client(server, "rest", photos / "00.png", to, "--overwrite")
    assert done.returncode == 0 and [row["class_1"] for row in _rows(to)] == ["rot"]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@SERVER
def test_what_passes_is_tried_again(server, photos, tmp_path, protocol):
    server.failing = [CODE.UNAVAILABLE, CODE.RESOURCE_EXHAUSTED, CODE.UNAVAILABLE]
    to = tmp_path / "found.csv"
    done = _client(server, protocol, photos, to, "--version=1", "--in_flight=1")
    assert done.returncode == 0, done.stderr
    assert server.failing == []
    _check(_rows(to), photos)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@SERVER
def test_what_does_not_pass_is_said_and_gone_on_with(
    server, photos, tmp_path, protocol
):
    to = tmp_path / "found.csv"
    few = ["--batch_size=5", "--in_flight=1", "--version=1"]
    server.failing = [None, None] + [CODE.UNAVAILABLE] * 50
    done = _client(server, protocol, photos, to, *few, "--deadline=1")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert "no answer within 1 s and" in line and "tries: " in line
    assert "told to fail" in line and "the same command goes on" in line
    assert len(server.failing) < 50  # it was tried more than once
    assert len(_rows(to)) == 10

    to.write_bytes(to.read_bytes()[:-4])  # as if killed within the last row
    server.failing, server.sizes = [], []
    done = _client(server, protocol, photos, to, *few)
    assert done.returncode == 0, done.stderr
    assert server.sizes == [5, 5, 1]  # not the nine whose rows are whole
    assert "11 images" in done.stdout and "9 had their row before" in done.stdout
    _check(_rows(to), photos)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@SERVER
def test_a_slow_server_does_not_outlast_the_deadline(
    server, photos, tmp_path, protocol
):
    server.delay_seconds = 30
    to = tmp_path / "found.csv"
    done = _client(server, protocol, photos, to, "--deadline=0.5")
    assert done.returncode == 2
    assert "no answer within 0.5 s and 1 try" in done.stderr


def _unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=vti"], "--model=vti: .* does not serve it"),
        (["--version=9"], "--model=vit:9: .* does not serve it"),
        (["--label=canary"], "--model=vit:canary: .* does not serve it"),
        (["--signature=serving_defualt"], "did you mean serving_default"),
        (["--signature=serving_tensor"], "maps images to .*; need image_bytes to"),
        (["--top=3"], "--top=3: vit at .* gives 2"),
        (["--batch_size=17"], "larger than maximum input batch size 16"),
    ],
)
@SERVER
def test_mistakes_are_one_line(server, photos, tmp_path, protocol, flags, said):
    done = _client(server, protocol, photos, tmp_path / "found.csv", *flags)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and re.search(said, line), line


@pytest.mark.parametrize("protocol", [pytest.param("grpc", marks=SERVER), "rest"])
def test_nobody_there_is_one_line(photos, tmp_path, protocol):
    server = f"127.0.0.1:{_unused_port()}"
    done = _client(server, protocol, photos, tmp_path / "f.csv", "--deadline=1")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert f"--server={server}: no answer within 1 s" in line
    assert "refused" in line and f"port for {protocol}?" in line
    assert not (tmp_path / "f.csv").exists()


@SERVER
def test_the_port_of_the_other_protocol_is_one_line(server, photos, tmp_path):
    for protocol, address in (("grpc", server.rest), ("rest", server.grpc)):
        done = _client(address, protocol, photos, tmp_path / "f.csv", "--deadline=1")
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        assert f"is this its port for {protocol}?" in line


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--server=localhost", "need HOST:PORT"),
        ("--server=http://localhost:8501", "need HOST:PORT"),
        ("--to=found.txt", "ends in .csv or .jsonl"),
        ("--images=nowhere", "--images=nowhere: no such file"),
        ("--label=stable", "give one"),
    ],
)
def test_wrong_flags_are_one_line_before_anybody_is_asked(tmp_path, flag, said):
    (tmp_path / "a.png").write_bytes(stand_in.png((1, 2, 3)))
    flags = {
        "server": "--server=127.0.0.1:9",
        "images": f"--images={tmp_path}",
        "to": f"--to={tmp_path}/f.csv",
        "version": "--version=1",
    }
    flags[flag[2:].partition("=")[0]] = flag
    done = warm.run("-m", "tools.predict_client", *flags.values())
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and said in line


@SERVER
def test_many_images_in_few_requests(server, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(600):
        (folder / f"{i:04}.png").write_bytes(stand_in.png((i % 250, 0, i // 250)))
    to = tmp_path / "found.jsonl"
    done = _client(server, "grpc", folder, to, "--in_flight=8", "--version=1")
    assert done.returncode == 0, done.stderr
    rows = _rows(to)
    assert [row["file"][-8:-4] for row in rows] == [f"{i:04}" for i in range(600)]
    for i in range(0, 600, 37):
        name, score = stand_in.answer((i % 250, 0, i // 250))[0]
        assert rows[i]["class_1"] == name
        assert rows[i]["score_1"] == pytest.approx(score, rel=1e-5)
    assert sorted(server.sizes) == [8] + [16] * 37


@SERVER
def test_a_file_that_vanishes_is_a_row(server, photos, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(stand_in.png(COLORS[0]))
    (tmp_path / "in" / "b.png").symlink_to("nowhere")
    done = _client(server, "grpc", tmp_path / "in", tmp_path / "f.jsonl")
    assert done.returncode == 0, done.stderr
    good, gone = _rows(tmp_path / "f.jsonl")
    assert "error" not in good and gone["error"].startswith("cannot be read: No such")


def _ask(server, body, what=":predict"):
    """As curl in docs/serving.md: standard library only, nothing of ours."""
    url = f"http://{server.rest}/v1/models/vit{what}"
    data = body and json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, data) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return json.load(error)


@SERVER
def test_request_bodies_by_hand(server):
    image = {"b64": base64.b64encode(stand_in.png(COLORS[0])).decode()}
    by_row = _ask(server, {"instances": [image, {"b64": ""}]})["predictions"]
    assert by_row[0]["classes"][0] == "rot" and by_row[1]["error"]
    named = [{"image_bytes": one} for one in (image, {"b64": ""})]
    assert by_row == _ask(server, {"instances": named})["predictions"]
    columns = _ask(server, {"inputs": {"image_bytes": [image]}})["outputs"]
    assert columns["classes"] == [by_row[0]["classes"]]
    states = _ask(server, None, "")["model_version_status"]
    assert [state["state"] for state in states] == ["AVAILABLE"]
    assert "error" in _ask(server, {"instances": [image], "signature_name": "x"})


@pytest.fixture
def channels(server):
    channels = [
        kind(channel.Address(server=at, model="vit", version=1))
        for kind, at in (
            (grpc_channel.GrpcChannel, server.grpc),
            (rest_channel.RestChannel, server.rest),
        )
    ]
    yield channels
    for opened in channels:
        opened.close()


@SERVER
def test_both_protocols_say_the_same(channels):
    encoded = [BAD.get(i, stand_in.png(c)) for i, c in enumerate(COLORS[:9])]
    by_grpc, by_rest = (opened.predict(encoded, 30) for opened in channels)
    assert by_grpc == by_rest  # scores bit for bit
    one, other = (opened.metadata(30) for opened in channels)
    assert one == other and one.version == 1
    assert one.signatures["serving_tensor"].outputs["probabilities"] == 3


@SERVER
def test_answers_of_another_form_are_said(channels, server, monkeypatch):
    for found in (
        {},
        {"classes": [["a"]], "scores": []},
        {"classes": [["a"]] * 2, "scores": [[1.0]] * 2, "error": ["", ""]},
        {"classes": [3], "scores": [3]},
    ):
        monkeypatch.setattr(
            rest_channel.RestChannel, "call", lambda *_, f=found: {"outputs": f}
        )
        with pytest.raises(errors.UserError, match="another form|2 answers to 1"):
            channels[1].predict([b"x"], 1)


@SERVER
def test_the_servers_wish_to_wait_is_heard(channels, server, monkeypatch):
    server.failing = [CODE.UNAVAILABLE]
    monkeypatch.setattr("tests.support.protocol_server.RETRY_AFTER", "7")
    with pytest.raises(retrying.Passing) as caught:
        channels[1].predict([b"x"], 9)
    assert caught.value.after_seconds == 7


def test_grpc_without_its_messages_is_refused_and_rest_is_not(without):
    without("tensorflow_serving", "tensorflow_serving.apis")
    address = channel.Address(server="127.0.0.1:9", model="vit")
    with pytest.raises(errors.UserError, match="grpc needs tensorflow_serving.*=rest"):
        grpc_channel.GrpcChannel(address)
    rest_channel.RestChannel(address).close()
