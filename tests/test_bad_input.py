"""Wrong types, shapes and ranges at every public function: told by the argument's name.

Each function has one valid call on tiny data. One argument of it is replaced by a bad
value; then the function returns, or raises `ValueError` or `TypeError` naming an
argument. An error from deep inside TensorFlow or NumPy, or a hang, is a failure.
"""

import collections
import contextlib
import faulthandler
import inspect
import io
import itertools
import os
import re
import signal
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

pytestmark = pytest.mark.filterwarnings("ignore")  # of bad values they are no news

# ------------------------------------------------------------------ the valid calls


class Parts(types.SimpleNamespace):
    """A namespace that does not fill the report of a failure."""

    def __repr__(self):
        return "parts"


@pytest.fixture(scope="module")
def parts(nb, tmp_path_factory):
    """What the valid calls are made of; shared, since building models is slow."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("bad_input")
    settings = dict(img_size=8, num_channels=1, latent_dim=3, filters=4)
    images = rng.uniform(size=(8, 8, 8, 1)).astype(np.float32)
    labels = np.arange(8) % 3
    codes = rng.normal(size=(8, 3)).astype(np.float32)
    files = types.SimpleNamespace(folder=folder, missing=folder / "missing.npz")
    for name, shape in nb.IMAGE_SHAPES.items():
        np.savez(folder / f"{name}.npz", **stored_arrays(shape))
    files.mnist = folder / "mnist.npz"
    files.text = folder / "text.npz"
    files.text.write_text("no arrays")
    return Parts(
        nb=nb,
        model=nb.CVAE(**settings),
        # The similarity index SSIM needs images of 11 pixels at least.
        large_model=nb.CVAE(**(settings | dict(img_size=12))),
        large_images=rng.uniform(size=(8, 12, 12, 1)).astype(np.float32),
        other_model=nb.CVAE(**(settings | dict(num_channels=3, latent_dim=2))),
        settings=settings,
        images=images,
        pixels=rng.integers(0, 256, size=(8, 8, 8, 1)).astype(np.uint8),
        labels=labels,
        codes=codes,
        encodings={label: codes[labels == label] for label in range(3)},
        history=types.SimpleNamespace(
            history={"loss": [3.0, 2.0], "val_loss": [4.0, 3.0], "seconds": [1.0, 2.0]}
        ),
        files=files,
        new_name=map("run-{}".format, itertools.count()),
    )


def stored_arrays(shape):
    """The four arrays of a data set of two training and one test image."""
    return {
        "x_train": np.zeros((2, *shape), np.uint8),
        "y_train": np.array([0, 9], np.uint8),
        "x_test": np.zeros((1, *shape), np.uint8),
        "y_test": np.array([5], np.uint8),
    }


def one_figure(p):
    figure, axes = p.nb.plt.subplots(figsize=(1, 1))
    axes.plot([0, 1])
    return figure


CALLS = {
    "require_positive_int": lambda p: dict(first=1, second=2),
    "require_floats": lambda p: dict(shape=(None, 3), first=p.codes, second=p.codes),
    "require_labels": lambda p: dict(n=8, first=p.labels, second=p.labels),
    "require_model": lambda p: dict(model=p.model),
    "require_names": lambda p: dict(n=2, first=["a", "b"], second=("a", "b")),
    "require_encodings": lambda p: dict(encodings=p.encodings),
    "require_history": lambda p: dict(history=p.history),
    "read_npz": lambda p: dict(path=p.files.mnist, name="mnist"),
    "load_dataset": lambda p: dict(name="mnist"),
    "preprocess_images": lambda p: dict(images=p.pixels, binarize=True),
    "make_dataset": lambda p: dict(
        images=p.images, batch_size=4, training=True, flip=True
    ),
    "show_figure": lambda p: dict(figure=one_figure(p), alt="a figure"),
    "show_image_grid": lambda p: dict(
        rows=[p.images[:2], p.images[2:4]],
        title="a title",
        row_labels=["a", "b"],
        column_labels=["c", "d"],
        size=0.5,
    ),
    "show_animation": lambda p: dict(
        clips=[p.images[:3], p.images[3:6]], titles=["a", "b"], alt="clips"
    ),
    "CVAE": lambda p: dict(
        **p.settings,
        num_convolutions=2,
        strides=2,
        kernel_size=3,
        hidden_units=(4, 4),
        activation="relu",
        seed=3,
    ),
    "CVAE.encode": lambda p: dict(x=p.images),
    "CVAE.reparameterize": lambda p: dict(mean=p.codes, logvar=p.codes),
    "CVAE.decode": lambda p: dict(z=p.codes, apply_sigmoid=True),
    "CVAE.sample": lambda p: dict(eps=p.codes),
    "CVAE.call": lambda p: dict(x=p.images),
    "log_normal_pdf": lambda p: dict(
        sample=p.codes, mean=p.codes, logvar=p.codes, raxis=1
    ),
    "log_bernoulli_pdf": lambda p: dict(x=p.images, logits=p.images),
    "log_calibrated_pdf": lambda p: dict(x=p.images, logits=p.images),
    "elbo_terms": lambda p: dict(
        model=p.model, x=p.images, log_likelihood=p.nb.log_calibrated_pdf
    ),
    "compute_loss": lambda p: dict(model=p.model, x=p.images),
    "compute_calibrated_loss": lambda p: dict(model=p.model, x=p.images),
    "compute_mmd_loss": lambda p: dict(model=p.model, x=p.images, weight=2.0),
    "compute_kernel": lambda p: dict(x=p.codes, y=p.codes[:4]),
    "mean_kernel": lambda p: dict(x=p.codes, y=p.codes[:4]),
    "compute_mmd": lambda p: dict(x=p.codes, y=p.codes[:4]),
    "compute_mmd_to_prior": lambda p: dict(z=p.codes),
    "check_kl_estimate": lambda p: dict(model=p.model, images=p.images),
    "generate_and_display_images": lambda p: dict(
        model=p.model, epoch=1, test_sample=p.images[:2]
    ),
    "show_flow_chart": lambda p: dict(network=p.model.encoder),
    "main_train_loop": lambda p: dict(
        model=p.nb.CVAE(**p.settings),
        train_dataset=p.nb.make_dataset(p.images, 4, training=True),
        test_dataset=p.nb.make_dataset(p.images, 4),
        epochs=1,
        loss_fn=p.nb.compute_loss,
        learning_rate=1e-3,
        backup_name=next(p.new_name),
    ),
    "plot_history": lambda p: dict(
        history=p.history, title="a title", name="loss", sign=1, reference=("a", 2.5)
    ),
    "importance_weighted_bound": lambda p: dict(
        model=p.model, images=p.images, draws=3, batch_size=4
    ),
    "encode_means": lambda p: dict(model=p.model, images=p.images),
    "get_allClass_encodings": lambda p: dict(
        model=p.model, images=p.images, labels=p.labels
    ),
    "project_to_plane": lambda p: dict(codes=p.codes),
    "plot_latent_space": lambda p: dict(
        encodings=p.encodings, class_names=["a", "b", "c"], title="a title", limit=2.0
    ),
    "knn_predict": lambda p: dict(
        codes=p.codes, labels=p.labels, queries=p.codes[:4], k=3
    ),
    "walk_src_to_dst": lambda p: dict(
        model=p.model,
        encodings=p.encodings,
        src=0,
        dst=2,
        steps=3,
        src_code=p.codes[0],
        dst_code=p.codes[1],
        class_names=["a", "b", "c"],
    ),
    "measure_model": lambda p: dict(
        model=p.large_model,
        train_images=p.large_images,
        train_labels=p.labels,
        test_images=p.large_images[:6],
        test_labels=p.labels[:6],
        history=p.history,
        log_likelihood=p.nb.log_calibrated_pdf,
    ),
    "measure_mmd": lambda p: dict(model=p.model, images=p.images),
    "print_metrics": lambda p: dict(
        results={"a": {"kl": (1.0, "nats")}, "b": {"kl": (2.0, "nats")}},
        metrics=["kl"],
    ),
    "pca_psnr": lambda p: dict(
        train_images=p.images, test_images=p.images[:4], n_components=3
    ),
}

EXCLUDED = {
    "get_strategy": "takes no argument",
    "use_xla": "takes no argument",
    "as_numpy": "takes anything",
    "check_splits": "sees only files' arrays, which come here through read_npz",
    "build_encoder": "a part of CVAE, which checks the arguments",
    "build_decoder": "a part of CVAE, which checks the arguments",
    "LossModel": "the base class of CVAE, called by Keras",
    "EpochReport": "a part of main_train_loop, called by Keras",
    "Backup": "a part of main_train_loop, called by Keras",
}

# What the notebook itself fixes where it checks an argument: no user can get it wrong.
FIXED = {
    "require_floats": {"shape"},
    "require_labels": {"n"},
    "require_names": {"n"},
    # A flag is anything with a truth value; NumPy says itself that arrays have none.
    "preprocess_images": {"binarize"},
    "make_dataset": {"training", "flip"},
    "CVAE.decode": {"apply_sigmoid"},
    # What is inside a History is Keras's; other types come with require_history.
    "measure_model": {"history"},
    "plot_history": {"history"},
}

# Errors that the docstrings promise besides `ValueError` and `TypeError`.
PROMISED = {
    "read_npz": (FileNotFoundError,),
    "load_dataset": (FileNotFoundError, RuntimeError),
    "main_train_loop": (FloatingPointError,),
}

# Names of what is passed on from one function to another, and of a file's arrays.
PASSED_ON = {"images", "x", "encodings"}
STORED = {"x_train", "y_train", "x_test", "y_test"}

# Any large integer is a valid wish for these, only not one for this machine's memory.
SIZES = {
    *("img_size", "num_channels", "latent_dim", "strides", "filters", "kernel_size"),
    *("hidden_units", "steps", "draws", "batch_size", "epochs", "size"),
}

# Data sets of images or codes: as NumPy arrays they must not hold NaN or infinity.
DATA = {
    *("images", "train_images", "test_images", "test_sample", "rows", "clips"),
    *("codes", "queries", "encodings", "src_code", "dst_code"),
}

# ------------------------------------------------------------------- the bad values


def anything(nb):
    """Values of all kinds of types: dict of what it is -> value."""
    values = [None, "", "a", b"a", [], [1, 2], ["a"], [[1.0], [1.0, 2.0]], {}, {0: 1}]
    values += [(), (3, 3), True, -1, 0, 2, 2.5, np.nan, np.inf, -np.inf, 1j, 1e30]
    values += [np.int64(2), np.float32(0.5), np.array(2), np.bool_(True), range(3)]
    found = {repr(value): value for value in values}
    return found | {
        "an object": object(),
        "a class": int,
        "a function": lambda *args: None,
        "an iterator": iter([1, 2]),
        "a set": {1, 2},
        "object array": np.array([None, "a"], object),
        "text array": np.array(["a", "b"]),
        "float array": np.ones(2, np.float32),
        "int array": np.arange(3),
        "empty array": np.zeros(0, np.float32),
        "times": np.zeros(2, "datetime64[s]"),
        "tensor": nb.tf.ones((2, 3)),
        "text tensor": nb.tf.constant(["a"]),
        "ragged tensor": nb.tf.ragged.constant([[1.0], [1.0, 2.0]]),
        "dataset of one number": nb.tf.data.Dataset.range(1),
    }


def changed_arrays(nb, array):
    """Arrays and the like with one thing changed: dict of the change -> value."""
    values = {
        "extra first axis": array[None],
        "extra last axis": array[..., None],
        "no first axis": array[0],
        "no entries": array[:0],
        "one entry": array[:1],
        "one entry less": array[:-1],
        "twice": np.concatenate([array, array]),
        "list": array.tolist(),
        "list of arrays": list(array),
        "dict": dict(enumerate(array)),
        "tensor": nb.tf.constant(array),
        "variable": nb.tf.Variable(array),
        "transposed": array.T,
        "read-only": np.broadcast_to(array[:1], array.shape),
    }
    if array.ndim > 1:
        values["last axis shorter"] = array[..., :-1]
        values["last axis longer"] = np.repeat(array, 3, axis=-1)
        values["second axis shorter"] = array[:, :-1]
    if array.dtype.kind == "f":
        for fill in (np.nan, np.inf, -np.inf):
            holed = array.copy()
            holed.flat[-1] = fill
            values[f"{fill} inside"] = holed
            values[f"tensor with {fill}"] = nb.tf.constant(holed)
        values["beyond [0, 1]"] = array * 1e4 - 5e3
        values["huge"] = array * np.float32(1e30)
        values["constant"] = np.zeros_like(array)
    else:
        values["negative"] = -array.astype(np.int64) - 1
        values["beyond 9"] = array.astype(np.int64) + 10
        values["huge"] = array.astype(np.int64) + 2**62
    for dtype in ("O", "S", "U", "?", "i8", "u1", "f2", "f4", "f8", "g", ">f4", "c8"):
        values[f"as {dtype}"] = array.astype(dtype)
    return values


def changed(nb, parts, value):
    """Values close to the valid one: dict of the change -> value."""
    if isinstance(value, np.ndarray):
        return changed_arrays(nb, value)
    values = {}
    if isinstance(value, (list, tuple)):
        kind = type(value)
        values |= {"one less": value[:-1], "one more": kind([*value, value[0]])}
        near = anything(nb) | changed(nb, parts, value[-1])
        values |= {f"[-1]: {k}": kind([*value[:-1], v]) for k, v in near.items()}
        if isinstance(value[0], np.ndarray):
            values["one array"] = np.stack(value)
    elif isinstance(value, dict):
        key, last = list(value.items())[-1]
        near = anything(nb) | changed(nb, parts, last)
        values |= {f"[{key!r}]: {k}": value | {key: v} for k, v in near.items()}
        for other in (-1, "a", 2.5, None, (1, 2), 10**30, True):
            values[f"key {other!r}"] = {**value, other: last}
        values["pairs"] = list(value.items())
    elif value is parts.history:
        near = anything(nb) | changed(nb, parts, value.history)
        make = types.SimpleNamespace
        values |= {f"history: {k}": make(history=v) for k, v in near.items()}
    elif isinstance(value, nb.CVAE):
        values["class"] = nb.CVAE
        values["other image size"] = parts.large_model
        values["other channels"] = parts.other_model
        values["its encoder"] = value.encoder
        values["only encode"] = types.SimpleNamespace(encode=value.encode)
        values["only sample"] = types.SimpleNamespace(sample=value.sample)
    elif isinstance(value, nb.tf.keras.Model):
        values["not built"] = nb.tf.keras.Sequential()
        values["a layer"] = value.layers[0]
        values["the CVAE"] = parts.model
    elif isinstance(value, nb.tf.data.Dataset):
        values["not batched"] = value.unbatch()
        values["batched twice"] = value.batch(2)
        values["endless"] = value.repeat()
        values["empty"] = value.take(0)
        values["of pairs"] = nb.tf.data.Dataset.zip((value, value))
        values["of codes"] = nb.make_dataset(parts.codes, 4)
        values["of one image's side"] = value.map(lambda x: x[:, :4])
        values["of doubles"] = value.map(lambda x: nb.tf.cast(x, "float64"))
        values["of NaN"] = value.map(lambda x: x + np.nan)
        values["array"] = parts.images
    elif isinstance(value, os.PathLike):
        values["text file"] = parts.files.text
        values["missing file"] = parts.files.missing
        values["folder"] = parts.files.folder
        values["other data set"] = parts.files.folder / "cifar10.npz"
        arrays = stored_arrays(nb.IMAGE_SHAPES["mnist"])
        for key, array in arrays.items():
            near = {"missing": None, **changed_arrays(nb, array)}
            for change, new in near.items():
                if isinstance(new, np.ndarray) or new is None:
                    path = value.parent / f"{key} {change.replace('>', '')}.npz"
                    kept = {k: v for k, v in arrays.items() if k != key}
                    np.savez(path, **kept, **({} if new is None else {key: new}))
                    values[f"file, {key} {change}"] = path
    elif isinstance(value, str):
        values |= {"long text": "a" * 50, "other data set": "cifar10"}
    return values


def bad_values(parts, argument, value):
    """All fixed bad values for an argument: dict of what it is -> value."""
    values = anything(parts.nb) | changed(parts.nb, parts, value)
    if argument not in SIZES:
        values["10**30"] = 10**30
    if inspect.isfunction(value):
        # Errors of another function that is called are that function's own.
        values = {what: new for what, new in values.items() if not callable(new)}
    return values


RANDOM = {
    "any array": hnp.arrays(
        hnp.scalar_dtypes(),
        hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    ),
    "any integer": st.integers(-3, 9),
    "any number": st.floats(),
    # No characters that Matplotlib or a file system reads as more than text.
    "any text": st.text("aZ09 é\n", max_size=4),
}

# ------------------------------------------------------------------------ the check

EXAMPLES = int(os.environ.get("HW3_FUZZ_EXAMPLES", "12"))  # per function
CALLED = collections.Counter()  # per function


@pytest.fixture(scope="module", autouse=True)
def report(request):
    """At the end one line with the number of calls."""
    yield
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\nbad input: {CALLED.total()} calls of {len(CALLED)} functions")


@pytest.fixture(autouse=True)
def stop_hangs(capfd):
    """Stop a test that runs for minutes; where it never leaves C, only by an exit."""
    with capfd.disabled():
        stderr = os.dup(2)
    faulthandler.dump_traceback_later(150, exit=True, file=stderr)
    yield
    faulthandler.cancel_dump_traceback_later()
    os.close(stderr)


@pytest.fixture
def surroundings(nb, parts, monkeypatch, request, record_property):
    """Data and backups in a folder of their own; afterwards, the calls so far."""
    monkeypatch.setenv("HW3_DATA_DIR", str(parts.files.folder))
    monkeypatch.setattr(nb, "BACKUP_DIR", str(parts.files.folder))
    yield
    nb.plt.close("all")
    record_property("calls", CALLED[request.node.callspec.params["function"]])


def target(parts, function):
    """The function, or the method of the shared model, of that name."""
    owner, _, method = function.rpartition(".")
    return getattr(parts.model if owner else parts.nb, method)


@contextlib.contextmanager
def at_most(seconds):
    def stop(signum, frame):
        raise TimeoutError(f"no answer in {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def call(parts, function, arguments):
    """Call the function, without what it prints, and count the call."""
    CALLED[function] += 1
    with at_most(60), contextlib.redirect_stdout(io.StringIO()):
        result = target(parts, function)(**arguments)
        if function == "make_dataset":
            list(result.take(2))  # an error may wait until the batches are made
    return result


def complaint(parts, function, arguments, argument):
    """What is wrong with how the function takes the arguments; None if nothing."""
    value = arguments[argument]
    try:
        call(parts, function, arguments)
    except Exception as error:
        if isinstance(error, PROMISED.get(function, ())):
            return None
        kind, text = type(error), str(error)
        names = {*arguments, *inspect.signature(target(parts, function)).parameters}
        names |= PASSED_ON | (STORED if function == "read_npz" else set())
        if not issubclass(kind, (ValueError, TypeError)):
            return f"{kind.__name__}: {text}"
        if not re.search(rf"(?<![\w.])({'|'.join(names)})(?!\w)", text):
            return f"{kind.__name__} that names no argument: {text}"
        return None
    finally:
        parts.nb.plt.close("all")
    if argument in DATA and not all_finite(value):
        return "NaN or infinity among the data was taken without an error"
    return None


def all_finite(value):
    """Whether all float arrays in a value are finite."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return all(map(all_finite, value))
    is_float = isinstance(value, np.ndarray) and value.dtype.kind == "f"
    return not is_float or bool(np.isfinite(value).all())


# ------------------------------------------------------------------------ the tests


def test_every_public_function_is_called(nb):
    public = {
        name
        for name, value in vars(nb).items()
        if callable(value)
        and getattr(value, "__module__", None) == nb.__name__
        and not name.startswith("_")
    }
    methods = {
        f"CVAE.{name}"
        for name, value in vars(nb.CVAE).items()
        if inspect.isfunction(value) and not name.startswith("_")
    }
    assert set(CALLS) | set(EXCLUDED) == public | methods
    assert not set(CALLS) & set(EXCLUDED)


@pytest.mark.parametrize("function", CALLS)
def test_valid_call(parts, surroundings, function):
    call(parts, function, CALLS[function](parts))


@pytest.mark.parametrize("function", CALLS)
@settings(
    deadline=None,
    max_examples=EXAMPLES,
    derandomize=True,
    phases=[Phase.generate],  # the values are as simple as they get
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_bad_argument(parts, surroundings, function, data):
    arguments = CALLS[function](parts)
    fixed = FIXED.get(function, set())
    argument = data.draw(st.sampled_from(sorted(set(arguments) - fixed)))
    values = bad_values(parts, argument, arguments[argument])
    what = data.draw(st.sampled_from([*values, *RANDOM]), label=argument)
    if what in RANDOM:
        arguments[argument] = data.draw(RANDOM[what], label=what)
    else:
        arguments[argument] = values[what]
    found = complaint(parts, function, arguments, argument)
    assert not found, f"{function}, {argument} = {what}: {found}"
