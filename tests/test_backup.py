"""Backup: trainings that are killed, resumed, refused or finished already."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import NOTEBOOK

EPOCHS = 6
# Trains on blobs until it is done or killed; prints its history as the last line.
TRAINING = """
import json, sys, nbformat, numpy as np
source = [
    cell.source
    for cell in nbformat.read(sys.argv[1], as_version=4).cells
    if "def" in cell.metadata.get("tags", [])
]
exec("\\n".join(source))
show_figure = lambda figure, alt: plt.close(figure)
seed, epochs = int(sys.argv[2]), int(sys.argv[3])
tf.keras.utils.set_random_seed(seed)
generator = np.random.default_rng(0)
images = generator.uniform(0, 0.2, size=(1500, 8, 8, 1)).astype(np.float32)
images[::2, :, :4] += 0.8
images[1::2, :, 4:] += 0.8
STEPS_PER_EXECUTION = 4
model = CVAE(img_size=8, num_channels=1, latent_dim=2, filters=4, seed=seed)
history = main_train_loop(
    model,
    make_dataset(images[:1200], 10, training=True),
    make_dataset(images[1200:], 100),
    epochs,
    backup_name="blobs",
)
rate = float(model.optimizer.learning_rate)
print(json.dumps(history.history | {"rate": rate}))
"""


def start(folder, seed=0, epochs=EPOCHS):
    environment = os.environ | {"MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("HW3_QUICK", None)
    environment.pop("HW3_BACKUP_DIR", None)
    if folder:
        environment["HW3_BACKUP_DIR"] = str(folder)
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, NOTEBOOK, str(seed), str(epochs)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """The lines that a training printed, and its history."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    *lines, history = output.splitlines()
    return lines, json.loads(history)


def kill_after(process, progress, done, delay):
    """Kill a training -9, `delay` seconds after the backup holds `done` epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if progress.is_file() and len(json.loads(progress.read_text())["logs"]) >= done:
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_training_killed_twice_ends_like_an_uninterrupted_one(tmp_path):
    whole = [start(None, seed) for seed in range(3)]
    progress = tmp_path / "blobs" / "progress.json"
    delays = np.random.default_rng().uniform(0, 0.2, size=2)
    print(f"killed {delays} s after the end of an epoch")
    for done, delay in zip((1, 3), delays, strict=True):
        kill_after(start(tmp_path), progress, done, delay)
    kept = json.loads(progress.read_text())["logs"]
    lines, resumed = finish(start(tmp_path))
    histories = [finish(process)[1] for process in whole]

    assert f"From the backup: {len(kept)} epochs are done" in lines
    epochs = [line.split()[1] for line in lines if line.startswith("Epoch")]
    assert epochs == [f"{i}/{EPOCHS}" for i in range(len(kept) + 1, EPOCHS + 1)]
    for key in ("loss", "val_loss", "seconds"):
        assert len(resumed[key]) == EPOCHS
        assert resumed[key][: len(kept)] == [log[key] for log in kept]
    assert resumed["rate"] == histories[0]["rate"] == pytest.approx(0, abs=1e-6)
    # Within the spread of the seeds, widened by as much to either side.
    finals = [history["val_loss"][-1] for history in histories]
    spread = max(finals) - min(finals)
    assert min(finals) - spread < resumed["val_loss"][-1] < max(finals) + spread


@pytest.fixture
def train(nb, make_blobs, monkeypatch, figures):
    """Function that trains a small model, with the backup in a given folder."""

    def run(folder, epochs=2, latent_dim=2, seed=0, loss_fn=nb.compute_loss):
        monkeypatch.setattr(nb, "BACKUP_DIR", folder)
        nb.tf.keras.utils.set_random_seed(1)
        model = nb.CVAE(img_size=8, num_channels=1, latent_dim=latent_dim, filters=4)
        images = make_blobs(96, seed)[0]
        datasets = (
            nb.make_dataset(images, 32, training=True),
            nb.make_dataset(images, 48),
        )
        options = dict(loss_fn=loss_fn, backup_name="blobs")
        return model, nb.main_train_loop(model, *datasets, epochs, **options)

    return run


def test_backup_is_off_by_default(nb, train, tmp_path, monkeypatch):
    assert nb.BACKUP_DIR is None
    monkeypatch.chdir(tmp_path)
    train(None)
    assert list(tmp_path.iterdir()) == []


def test_backup_of_a_finished_training_is_loaded_not_repeated(train, tmp_path, capsys):
    model, history = train(tmp_path)
    capsys.readouterr()
    again, same_history = train(tmp_path)
    assert "Epoch" not in capsys.readouterr().out.replace("From", "")
    assert same_history.history == history.history
    assert same_history.epoch == [0, 1]
    for old, new in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"latent_dim": 3}, "weights"),
        ({"epochs": 3}, "epochs"),
        ({"seed": 5}, "test_dataset"),
        ({"loss_fn": lambda model, x: 0.0}, "loss_fn"),
    ],
    ids=["model", "epochs", "data", "loss"],
)
def test_backup_of_another_configuration_is_refused(train, tmp_path, change, named):
    train(tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "blobs").iterdir()}
    with pytest.raises(ValueError, match=f"other .*{named}.*BACKUP_DIR"):
        train(tmp_path, **change)
    assert {p: p.read_bytes() for p in (tmp_path / "blobs").iterdir()} == before


@pytest.mark.parametrize("written", [0.0, 0.5, 1.0])
def test_kill_while_the_backup_is_written_keeps_the_last(
    nb, train, tmp_path, monkeypatch, written
):
    save_weights, killed = nb.CVAE.save_weights, RuntimeError("killed")

    def save_partly(model, path, **options):
        save_weights(model, path, **options)
        if "epoch-2" in str(path):
            content = pathlib.Path(path).read_bytes()
            pathlib.Path(path).write_bytes(content[: int(written * len(content))])
            raise killed

    monkeypatch.setattr(nb.CVAE, "save_weights", save_partly)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path, epochs=3)
    monkeypatch.setattr(nb.CVAE, "save_weights", save_weights)
    first = json.loads((tmp_path / "blobs" / "progress.json").read_text())["logs"]
    assert len(first) == 1
    _, history = train(tmp_path, epochs=3)
    assert history.history["loss"][0] == first[0]["loss"]
    assert len(history.history["loss"]) == 3


def test_backup_keeps_the_last_good_epoch_when_the_loss_is_not_finite(
    nb, train, tmp_path
):
    def loss_fn(model, x):
        good = nb.tf.cast(model.optimizer.iterations < 4, nb.tf.float32)
        return nb.compute_loss(model, x) / good

    with pytest.raises(FloatingPointError, match="epoch 2"):
        train(tmp_path, loss_fn=loss_fn)
    progress = json.loads((tmp_path / "blobs" / "progress.json").read_text())
    assert len(progress["logs"]) == 1
    assert (tmp_path / "blobs" / "epoch-1.weights.h5").is_file()


def test_backup_on_a_full_disk_says_so(nb, train, tmp_path, monkeypatch):
    train(tmp_path, epochs=1)
    before = (tmp_path / "blobs" / "progress.json").read_bytes()
    full = OSError(28, "No space left on device")

    def no_room(*arguments, **options):
        raise full

    monkeypatch.setattr(nb.CVAE, "save_weights", no_room)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path / "other", epochs=1)
    assert not (tmp_path / "other" / "blobs" / "progress.json").exists()
    assert (tmp_path / "blobs" / "progress.json").read_bytes() == before


def test_training_cell_run_twice_starts_anew(train):
    first, second = (train(None)[1].history["val_loss"] for _ in range(2))
    assert first == pytest.approx(second, rel=1e-4)  # no state doubled or carried over
