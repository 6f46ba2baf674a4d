"""The loop's guarantees: replicas, resume, signals, and loud failures."""

import itertools
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest

from tests.support import closeness, fakes, tiny, warm
from vit_tf import config_values, errors
from vit_tf.data import evaluation_stream
from vit_tf.data.builders import image_folder
from vit_tf.data.preparation import image_folders
from vit_tf.evaluation import inference
from vit_tf.runs import checkpoint, run_directory, stored_weights
from vit_tf.training import loop, setup


def _assert_same_state(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)


def _trained(cfg, workdir, data_dir, machine):
    """Weights after a run, by variable path, with their starting values."""
    result = loop.train(cfg, str(workdir), machine=machine, data_dir=data_dir)
    return result, tiny.newest_state(workdir)


# What a resume has to get right all at once: draws, slots, averages, accumulated
# gradients, several epochs (of four steps), evaluations on the way.
HARD = {
    "model__dropout": 0.1,
    "optim__polyak": 0.9,
    "train__accumulation": 2,
    "train__length": 20,
    "evals__every_steps": 6,
    "data__split": "train[:64]",
}


@pytest.fixture(scope="module")
def whole(once, data_dir):
    """An uninterrupted run of the command, in its own process; nobody changes it."""

    def run(workdir):
        process = warm.start(*tiny.command(workdir, data_dir, **HARD))
        _, errors = process.communicate()
        assert process.returncode == 0, errors

    return once("whole", run)


def test_epochs_are_of_the_subset(tmp_path, data_dir):
    changes = {"data__subset__amount": 7, "data__subset__unit": "shots"}
    cfg = tiny.make(train__length=2, train__unit="epochs", **changes)
    found = setup.prepare(cfg, tiny.one_device(), data_dir=data_dir)
    assert found.total_steps == 2 * 70 // 16
    cfg = tiny.make(data__subset__amount=500, data__subset__unit="shots")
    with pytest.raises(errors.UserError, match="subset.amount=500 shots: class"):
        setup.prepare(cfg, tiny.one_device(), data_dir=data_dir)


def test_several_labels_of_an_image_are_refused(tmp_path):
    examples = fakes.drawn("imagenet2012_real", 2)
    fakes.write("imagenet2012_real", tmp_path, {"validation": examples})
    cfg = tiny.make(data__name="imagenet2012_real")
    with pytest.raises(errors.UserError, match="use objective.loss=sigmoid"):
        setup.prepare(cfg, tiny.one_device(), data_dir=str(tmp_path))
    cfg = tiny.make(
        data__name="imagenet2012_real",
        data__split="validation",
        data__batch_size=2,
        evals__splits="validation",
        objective__loss="sigmoid",
        train__length=3,
    )
    result = loop.train(
        cfg, str(tmp_path / "run"), machine=tiny.one_device(), data_dir=str(tmp_path)
    )
    assert [m["count"] for m in result["metrics"]] == [2, 2]


# Guarantee 1: replica invariance.


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        # Two share runs below and in tests/data/test_mixup_cutmix.py; eight take two
        # minutes, and tests/tools/test_tpu_check.py has a step of eight.
        ("adam", (4,)),
        pytest.param("adam", (2, 8), marks=pytest.mark.slow),
        pytest.param("sgd", (2, 4, 8), marks=pytest.mark.slow),
    ],
)
def test_replicas_do_not_change_the_weights(tmp_path, data_dir, rule, counts):
    """With clipping that bites, decay, accumulation and Polyak average."""
    cfg = tiny.make(
        optim__rule=rule,
        optim__polyak=0.9,
        optim__clip_norm=0.1,
        train__accumulation=2,
        train__length=10,
        train__checkpoint_every_steps=10,
        evals__batch_size=24,
    )
    one, alone = _trained(cfg, tmp_path / "1", data_dir, tiny.one_device())
    norms = [r["gradient_norm"] for r in tiny.rows(tmp_path / "1") if "loss" in r]
    assert max(norms) > 0.1, "the clip never bit"
    for devices in counts:
        workdir = tmp_path / str(devices)
        many, state = _trained(cfg, workdir, data_dir, tiny.mirrored(devices))
        closeness.assert_close_state(state, alone)
        assert many["metrics"][0] == one["metrics"][0], "accuracy and count differ"


def _loss_on_copies(data_dir, machine, *, dropout):
    """The first step's loss where every replica gets the same single example."""
    replicas = machine.strategy.num_replicas_in_sync
    cfg = tiny.make(model__dropout=dropout, data__batch_size=replicas)
    state = setup.prepare(cfg, machine, data_dir=data_dir).state
    _randomise(state.model)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    copies = tiny.tf.data.Dataset.from_tensors({"image": pixels, "label": [3]})
    batches = machine.strategy.distribute_datasets_from_function(
        lambda context: copies.repeat()
    )
    steps = tiny.steps(state, cfg, machine)
    return float(steps(iter(batches), tiny.tf.constant(1))["loss"][0])


def test_dropout_masks_differ_between_replicas(data_dir):
    """Were they the same, copies of one example would have one loss."""
    alone = _loss_on_copies(data_dir, tiny.one_device(), dropout=0.5)
    shared = _loss_on_copies(data_dir, tiny.mirrored(2), dropout=0.5)
    assert abs(alone - shared) > 1e-3
    alone = _loss_on_copies(data_dir, tiny.one_device(), dropout=0.0)
    shared = _loss_on_copies(data_dir, tiny.mirrored(2), dropout=0.0)
    assert alone == pytest.approx(shared, rel=1e-6)


@pytest.mark.slow
def test_dropout_repeats_on_the_same_replicas(tmp_path, data_dir):
    cfg = tiny.make(model__dropout=0.5, train__length=3)
    first = _trained(cfg, tmp_path / "a", data_dir, tiny.mirrored(2))[1]
    again = _trained(cfg, tmp_path / "b", data_dir, tiny.mirrored(2))[1]
    _assert_same_state(first, again)


# Guarantee 2: exact resume.


def _assert_same_run(workdir, whole):
    """Weights, optimizer state, averages, rows, results and files are equal."""
    _assert_same_state(tiny.newest_state(workdir), tiny.newest_state(whole))
    assert tiny.rows(workdir) == tiny.rows(whole)
    assert tiny.result(workdir)["metrics"] == tiny.result(whole)["metrics"]
    weights = [(w / "weights.npz").read_bytes() for w in (workdir, whole)]
    assert weights[0] == weights[1]


def _finish(workdir, data_dir):
    process = warm.start(*tiny.command(workdir, data_dir, **HARD))
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return errors


def test_killed_in_mid_epoch_and_resumed_is_bit_for_bit_the_same(
    whole, tmp_path, data_dir
):
    workdir = tmp_path / "run"
    process = warm.start(*tiny.command(workdir, data_dir, **HARD))
    kill_after = random.Random(os.urandom(4)).randrange(5, 15)
    # A checkpoint is whole some time after the row of its step.
    while process.poll() is None and (
        _last_step(workdir) < kill_after
        or not checkpoint.saved_steps(str(workdir / "checkpoints"))
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before the kill"
    assert "resumed at step" in _finish(workdir, data_dir)
    _assert_same_run(workdir, whole)


def test_killed_at_any_touch_of_the_disk_is_bit_for_bit_the_same(
    whole, tmp_path, data_dir
):
    """Also inside a checkpoint, a row, and between the two; again and again."""
    workdir = tmp_path / "run"
    rng = random.Random(os.urandom(4))
    for touches in [rng.randrange(20, 60) for _ in range(3)]:
        arguments = tiny.command(workdir, data_dir, **HARD)
        arguments[:2] = ["-m", "tests.support.killed_at", str(touches)]
        process = warm.start(*arguments)
        _, errors = process.communicate()
        if process.returncode == 0:
            break  # all the work was done in fewer touches
        assert process.returncode == -signal.SIGKILL, errors
    _finish(workdir, data_dir)
    _assert_same_run(workdir, whole)


def _last_step(workdir):
    found = run_directory.read_rows(str(workdir))
    return found[-1]["step"] if found else 0


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_signals_save_within_a_step_and_exit_cleanly(whole, tmp_path, data_dir, number):
    workdir = tmp_path / "run"
    process = warm.start(*tiny.command(workdir, data_dir, **HARD))
    while process.poll() is None and _last_step(workdir) < 5:
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate()
    code = {signal.SIGTERM: 143, signal.SIGINT: 130}[number]  # so that it is resumed
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert f"{number.name}: saved at step" in errors
    assert not (workdir / "result.json").exists(), "it ended before the signal"
    _finish(workdir, data_dir)
    _assert_same_run(workdir, whole)


def test_steps_per_loop_change_nothing(tmp_path, data_dir):
    states = []
    for steps in (1, 5):
        cfg = tiny.make(train__steps_per_loop=steps, train__log_every_steps=3)
        workdir = tmp_path / str(steps)
        states.append(_trained(cfg, workdir, data_dir, tiny.one_device())[1])
    _assert_same_state(*states)
    assert tiny.rows(tmp_path / "1") == tiny.rows(tmp_path / "5")


def test_the_step_is_traced_once(tmp_path, data_dir):
    cfg = tiny.make(train__steps_per_loop=5, train__log_every_steps=3)
    machine = tiny.one_device()
    prepared = setup.prepare(cfg, machine, data_dir=data_dir)
    steps = tiny.steps(prepared.state, cfg, machine)
    batches = prepared.batches(machine.strategy, start_step=0)
    for count in (1, 3, 2):
        steps(batches, np.int32(count) + tiny.tf.constant(0))
    assert steps.experimental_get_tracing_count() == 1


def test_a_finished_run_is_not_trained_again(whole, tmp_path, data_dir):
    workdir = shutil.copytree(whole, tmp_path / "run")
    before = (workdir / "metrics.jsonl").read_bytes()
    process = warm.start(*tiny.command(workdir, data_dir, **HARD))
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "20 steps" in output and "test accuracy" in output
    assert (workdir / "metrics.jsonl").read_bytes() == before


# Guarantee 3: exact evaluation.


@pytest.mark.parametrize(
    ("devices", "batch_size"),
    [
        (1, 7),
        (2, 64),
        *(pytest.param(*p, marks=pytest.mark.slow) for p in [(1, 1000), (4, 6)]),
    ],
)
def test_every_example_is_evaluated_once(data_dir, devices, batch_size):
    cfg = tiny.make(evals__batch_size=batch_size)
    machine = tiny.one_device() if devices == 1 else tiny.mirrored(devices)
    prepared = setup.prepare(cfg, machine, data_dir=data_dir)
    _randomise(prepared.state.model)
    metrics = prepared.evaluate()
    reference = setup.prepare(cfg, tiny.one_device(), data_dir=data_dir)
    _randomise(reference.state.model)
    accuracy, loss = _by_hand(reference)
    total = reference.source.num_examples("test")
    assert metrics[0].count == metrics[1].count == total
    assert metrics[0].value == accuracy
    assert metrics[1].value == pytest.approx(loss, rel=1e-5)


def _randomise(model):
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(scale=0.2, size=variable.shape))


def _by_hand(prepared):
    """Accuracy and loss of batches that need no padding, without the evaluator."""
    total = prepared.source.num_examples("test")
    stream = evaluation_stream.stream(
        prepared.source, tiny.make().data.view, "test", batch_size=total // 8
    )
    hits, losses = [], []
    for batch in stream:
        logits = prepared.state.model(batch["image"], training=False).numpy()
        label = batch["label"].numpy()
        hits.append(logits.argmax(axis=1) == label)
        logits = logits - logits.max(axis=1, keepdims=True)
        right = np.take_along_axis(logits, label[:, None], axis=1)[:, 0]
        losses.append(np.log(np.exp(logits).sum(axis=1)) - right)
    assert len(np.concatenate(hits)) == total
    return np.concatenate(hits).mean(), np.concatenate(losses).mean()


def test_evaluation_sees_the_average_and_training_does_not(data_dir):
    cfg = tiny.make(optim__polyak=0.9)
    state = setup.prepare(cfg, tiny.one_device(), data_dir=data_dir).state
    variables, averages = state.variables, state.optimizer.averages
    for variable, average in zip(variables, averages):
        variable.assign(tiny.tf.fill(variable.shape, 1.0))
        average.assign(tiny.tf.fill(average.shape, 2.0))

    def values():
        return {float(v.numpy().max()) for v in variables}

    with state.averaged():
        assert values() == {2.0}
    assert values() == {1.0}
    with pytest.raises(RuntimeError), state.averaged():
        raise RuntimeError("a failing evaluation")
    assert values() == {1.0}


def test_evaluating_on_the_way_does_not_change_the_weights(tmp_path, data_dir):
    states = []
    for every in ("none", 5):
        cfg = tiny.make(evals__every_steps=every, optim__polyak=0.9)
        states.append(
            _trained(cfg, tmp_path / str(every), data_dir, tiny.one_device())[1]
        )
    _assert_same_state(*states)
    steps = [r["step"] for r in tiny.rows(tmp_path / "5") if r.get("name") == "loss"]
    assert steps == [5, 10, 12]
    assert (
        tiny.result(tmp_path / "5")["metrics"]
        == (tiny.result(tmp_path / "none")["metrics"])
    )


# Guarantee 5: loud failures that lose nothing.


def _refusal(cfg, workdir, data_dir):
    """The one line that training `cfg` ends with."""
    with pytest.raises(errors.UserError) as caught:
        loop.train(cfg, str(workdir), machine=tiny.one_device(), data_dir=data_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, data_dir):
    diverging = {
        "optim__rule": "sgd",
        "optim__schedule": "constant",
        "optim__clip_norm": "none",
        "optim__warmup_steps": 0,
        "optim__weight_decay": 0,
        "train__checkpoint_every_steps": 1,
    }
    cfg = tiny.make(optim__lr=1e8, **diverging)
    line = _refusal(cfg, tmp_path, data_dir)
    assert line.startswith("step ") and "optim.lr" in line
    state = tiny.newest_state(tmp_path)
    weights = [v for k, v in state.items() if k.startswith("model")]
    assert weights and all(np.isfinite(w).all() for w in weights)
    assert "checkpoint of step" in line
    assert not (tmp_path / "result.json").exists()


def test_weights_that_the_last_update_broke_are_never_saved(tmp_path, data_dir):
    """The loss of a step is taken before its update and cannot see this."""
    cfg = tiny.make(
        optim__rule="sgd",
        optim__lr=3e38,
        optim__schedule="constant",
        optim__clip_norm="none",
        optim__warmup_steps=0,
        optim__weight_decay=1e30,
        train__length=1,
    )
    line = _refusal(cfg, tmp_path, data_dir)
    assert "is not finite" in line and "no checkpoint" in line
    assert not (tmp_path / "result.json").exists()
    assert not list(tmp_path.glob("checkpoints/step_*"))


def test_refused_input_leaves_the_folder_free_for_the_right_one(tmp_path, data_dir):
    for wrong in (
        {"data__image_size": 30},
        {"model__variant": "ViT-Q/8"},
        {"data__name": "nowhere"},
        {"evals__splits": "tset"},
        {"optim__warmup_steps": 50},
        {"start_from": "nowhere.npz"},
        {"train__accumulation": 3},
        {"model__pool": "unpooled"},
    ):
        _refusal(tiny.make(**wrong, train__length=4), tmp_path, data_dir)
    cfg = tiny.make(train__length=4)
    result = loop.train(
        cfg, str(tmp_path), machine=tiny.one_device(), data_dir=data_dir
    )
    assert result["steps"] == 4


def test_other_data_than_the_run_began_with_are_refused(tmp_path, whole, data_dir):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "result.json").unlink()
    facts = json.loads((workdir / "data.json").read_text())
    facts["training_examples"] += 1
    (workdir / "data.json").write_text(json.dumps(facts))
    line = _refusal(tiny.make(**HARD), workdir, data_dir)
    assert "training_examples 65 against 64" in line


def test_a_workdir_that_cannot_be_made_is_one_line(tmp_path, data_dir):
    (tmp_path / "file").write_text("")
    line = _refusal(tiny.make(), tmp_path / "file", data_dir)
    assert f"cannot write {tmp_path / 'file'}" in line


def test_another_config_in_the_folder_is_refused(whole, tmp_path, data_dir):
    workdir = shutil.copytree(whole, tmp_path / "run")
    process = warm.start(*tiny.command(workdir, data_dir, **HARD, optim__lr=0.5))
    _, errors = process.communicate()
    assert process.returncode == 2
    assert "optim.lr: 0.003 against 0.5" in errors
    assert errors.strip().count("\n") == 0


def test_two_processes_cannot_write_one_run(tmp_path, data_dir):
    cfg = tiny.make()
    with (
        run_directory.RunDirectory(str(tmp_path), cfg),
        pytest.raises(errors.UserError, match="another process"),
    ):
        run_directory.RunDirectory(str(tmp_path), cfg)


def test_an_unreadable_checkpoint_is_named(whole, tmp_path, data_dir):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "result.json").unlink()
    newest = max((workdir / "checkpoints").glob("step_*"))
    data = next(newest.glob("state.data*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(errors.UserError, match="step_00000020.*go on from step 16"):
        loop.train(
            tiny.make(**HARD),
            str(workdir),
            machine=tiny.one_device(),
            data_dir=data_dir,
        )
    shutil.rmtree(newest)
    _finish(workdir, data_dir)
    _assert_same_run(workdir, whole)


def _allow_small_files_only():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))


def test_a_full_disk_keeps_the_previous_checkpoint_whole(whole, tmp_path, data_dir):
    """The limit on file sizes stands in for the full disk: writes fail midway."""
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (workdir / "result.json").unlink()
    shutil.rmtree(max((workdir / "checkpoints").glob("step_*")))
    before = tiny.newest_state(workdir)

    process = warm.start(
        *tiny.command(workdir, data_dir, **HARD), prepare=_allow_small_files_only
    )
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    line = errors.strip().splitlines()[-1]
    assert "cannot save the checkpoint of step 20" in line
    assert "the one of step 16 is whole" in line
    _assert_same_state(tiny.newest_state(workdir), before)
    _finish(workdir, data_dir)
    _assert_same_run(workdir, whole)


def test_only_the_newest_checkpoints_stay(whole):
    names = sorted(p.name for p in (whole / "checkpoints").iterdir())
    assert names == ["step_00000016", "step_00000020"]


def test_a_batch_that_does_not_divide_is_refused(data_dir):
    cfg = tiny.make(train__accumulation=3)
    machine = tiny.one_device()
    state = setup.prepare(cfg, machine, data_dir=data_dir).state
    with pytest.raises(errors.UserError, match="data.batch_size=16.*near: 15, 18"):
        tiny.steps(state, cfg, machine)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_corrupt_image_stops_the_run_with_its_name(tmp_path, split):
    """What was trained before it is saved; nothing is skipped in silence."""
    rng = np.random.default_rng(0)
    bad = f"{split}/b/3.png"
    for part, kind, number in itertools.product(("train", "test"), "ab", range(16)):
        path = tmp_path / "photos" / part / kind / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
        path.write_bytes(tiny.tf.io.encode_png(pixels).numpy())
    listing = image_folders.list_folder(str(tmp_path / "photos"))
    # Damaged between the check and the writing, as a failing disk would do it.
    (tmp_path / "photos" / bad).write_bytes(b"\x89PNG\r\n\x1a\n but no picture")
    chosen = image_folder.FolderConfig(name="photos", listing=listing)
    data_dir = str(tmp_path / "data")
    image_folder.ImageFolder(config=chosen, data_dir=data_dir).download_and_prepare()
    cfg = tiny.make(data__name="photos", data__batch_size=4, train__length=8)
    with pytest.raises(errors.UserError) as caught:
        loop.train(
            cfg, str(tmp_path / "run"), machine=tiny.one_device(), data_dir=data_dir
        )
    line = str(caught.value)
    assert bad in line and "\n" not in line
    if split == "test":  # the training before it is kept
        assert (tmp_path / "run" / "checkpoints" / "step_00000008").is_dir()
    else:
        step = int(line.split("step ")[1].split(":")[0])
        rows = tiny.rows(tmp_path / "run")
        assert [r["step"] for r in rows] == list(range(1, step))
        if step > 1:
            whole = sorted((tmp_path / "run" / "checkpoints").glob("step_*"))
            assert whole[-1].name == f"step_{step - 1:08d}"


# Transfer.


def test_transfer_replaces_the_head_and_resizes_the_grid(whole, tmp_path, data_dir):
    cfg = tiny.make(
        data__image_size=32,
        start_from=whole,
        train__length=3,
        objective__loss="sigmoid",
    )
    machine = tiny.one_device()
    prepared = setup.prepare(cfg, machine, data_dir=data_dir)
    text = "\n".join(
        stored_weights.start_from(
            prepared.state.model,
            cfg.start_from,
            class_names=prepared.class_names,
        )
    )
    assert "resized from 2x2 to 4x4" in text
    result = loop.train(cfg, str(tmp_path), machine=machine, data_dir=data_dir)
    assert result["metrics"][0]["count"] == prepared.source.num_examples("test")


@pytest.mark.parametrize(
    ("path", "said"),
    [("nowhere.npz", "no such file"), ("experiments", "no finished run there")],
)
def test_a_wrong_start_is_one_line(tmp_path, data_dir, path, said):
    cfg = tiny.make(start_from=tiny.ROOT / path)
    with pytest.raises(errors.UserError, match=said):
        loop.train(cfg, str(tmp_path), machine=tiny.one_device(), data_dir=data_dir)


# It learns, and the same on every path.


def test_it_learns_to_read_digits(tmp_path, data_dir):
    cfg = tiny.make(
        train__length=150,
        train__log_every_steps=50,
        train__checkpoint_every_steps=150,
        data__min_crop_area=0.8,
        optim__warmup_steps=10,
        optim__clip_norm=1,
    )
    result = loop.train(
        cfg, str(tmp_path), machine=tiny.one_device(), data_dir=data_dir
    )
    assert result["metrics"][0]["value"] > 0.5, "chance is 0.1"


def test_xla_takes_the_same_steps(tmp_path, data_dir):
    cfg = tiny.make(train__length=4)
    plain = _trained(cfg, tmp_path / "plain", data_dir, tiny.mirrored(2))[1]
    jit = _trained(cfg, tmp_path / "jit", data_dir, tiny.mirrored(2, jit_compile=True))[
        1
    ]
    for name, value in plain.items():
        np.testing.assert_allclose(jit[name], value, rtol=1e-3, atol=1e-4)


def test_result_says_what_ran(whole):
    found = tiny.result(whole)
    assert found["steps"] == 20 and found["examples_seen"] == 20 * 16
    assert found["device"] == "1 CPU"
    assert found["dataset"].startswith("digits ")
    assert {m["name"] for m in found["metrics"]} == {"accuracy", "loss"}
    cfg = config_values.from_json((whole / "config.json").read_text())
    assert found["fingerprint"] == config_values.fingerprint(cfg)
    assert list(pathlib.Path(whole, "tensorboard").iterdir())
    row = run_directory.read_rows(str(whole))[0]
    assert {"loss", "learning_rate", "gradient_norm", "images_per_second"} <= row.keys()


def test_a_cut_file_of_an_evaluation_split_is_named(data_dir, monkeypatch):
    """TensorFlow says the same of a file that ends early and of a lost process."""
    prepared = setup.prepare(tiny.make(), tiny.one_device(), data_dir=data_dir)

    def ends_early(*_):
        raise tiny.tf.errors.FailedPreconditionError(None, None, "file ends early")

    monkeypatch.setattr(prepared.evaluator.inference_pass, "step", ends_early)
    monkeypatch.setattr(
        inference.failing_records,
        "find_in_split",
        lambda *_: "test.tfrecord is damaged",
    )
    with pytest.raises(errors.UserError, match="evaluating 'test': test.tfrecord is"):
        prepared.evaluate()


def test_an_evaluation_too_large_for_memory_says_what_helps(data_dir, monkeypatch):
    prepared = setup.prepare(tiny.make(), tiny.one_device(), data_dir=data_dir)

    def is_full(*_):
        raise tiny.tf.errors.ResourceExhaustedError(None, None, "OOM")

    monkeypatch.setattr(prepared.evaluator.inference_pass, "step", is_full)
    with pytest.raises(
        errors.UserError, match="out of memory at 16 pixels .* lower the"
    ):
        prepared.evaluate()
