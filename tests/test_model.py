"""CVAE: its shapes and layers, encoder and decoder, the noise; get_strategy."""

import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import close, make_model
from scipy.special import expit
from scipy.stats import kstest


@pytest.mark.parametrize("code", [{"hidden_units": (5, 4)}, {"grid_code": True}])
@pytest.mark.parametrize(("side", "strides", "n"), [(4, 1, 1), (1, 2, 3), (4, 3, 2)])
def test_CVAE_shapes_follow_the_arguments(nb, side, strides, n, code):
    size = side * strides**n
    dim = 2 * side**2
    model = nb.CVAE(size, 3, dim, n, strides, filters=2, **code)
    mean, logvar = model.encode(np.zeros((2, size, size, 3), np.float32))
    assert mean.shape == logvar.shape == (2, dim)
    assert model.decode(mean).shape == model.sample(mean).shape == (2, size, size, 3)
    first, *_ = transposed = [a for a in model.decoder.layers if "transpose" in a.name]
    assert first.input.shape[1:] == (side, side, 2**n)
    assert [a.filters for a in transposed] == [2**i for i in range(n - 1, 0, -1)] + [3]
    dense = [a.units for a in model.encoder.layers if hasattr(a, "units")]
    assert dense == ([] if "grid_code" in code else [5, 4, 2 * dim])


def test_CVAE_rejects_sizes_that_do_not_divide(nb):
    for size, n, dim in [(0, 2, 4), (28, 3, 9), (28, 4, 4), (8, 2, 6), (8, 0, 64)]:
        with pytest.raises(ValueError, match=f"img_size={size} |latent_dim={dim} "):
            nb.CVAE(size, 1, dim, num_convolutions=n, grid_code=True)


def test_a_place_of_the_grid_code_decodes_to_its_part_of_the_image(nb):
    model = nb.CVAE(32, 1, latent_dim=8 * 8 * 3, filters=4, grid_code=True)
    z = np.zeros((2, 8, 8, 3), np.float32)
    z[1, 2, 5, 1] = 1
    before, after = np.squeeze(model.decode(z.reshape(2, -1)))
    for pixels, place in zip(np.nonzero(before != after), (2, 5), strict=True):
        assert {4 * place, 4 * place + 3} <= set(pixels) and np.ptp(pixels) < 20


def test_encode_decode_and_sample(nb, rng):
    model = make_model(nb)
    z = rng.normal(size=(4, 3)).astype(np.float32)
    assert np.min(model.decode(z)) < -1  # logits
    for images in (model.decode(z, apply_sigmoid=True), model.sample(z)):
        close(images, expit(model.decode(z)), rtol=1e-5)
    # First the means, then the log variances, which are kept within bounds.
    model.encoder = lambda x: np.float32([[7, -1e3, 1e3, 0.5, -1e3, 1e3]])
    close(np.hstack(model.encode(None)), [[7, -1e3, 1e3, 0.5, *nb.LOGVAR_BOUNDS]])


def test_draws_have_the_right_distribution(nb):
    model = make_model(nb)
    rows = np.ones((5000, 1), np.float32)
    mean, logvar = np.float32([[0, -2, 3], [0, 1.5, -2]])
    z = model.reparameterize(rows * mean, rows * logvar)
    model.decode = lambda z, apply_sigmoid: z  # shows the codes of samples
    prior = [model.sample() for _ in range(50)]
    for noise in ((z - mean) / np.exp(logvar / 2), prior):
        assert kstest(np.ravel(noise), "norm").pvalue > 1e-4
        assert len(np.unique(noise)) > 14_900  # all are new


def test_weights_and_noise_follow_the_constant_SEED(nb, monkeypatch):
    drawn = []
    for seed in (5, 5, 6):
        monkeypatch.setattr(nb, "SEED", seed)
        model = nb.CVAE(8, 1, 3, filters=2)
        drawn.append(np.append(model.get_weights()[0], model.sample()))
    assert np.all(drawn[0] == drawn[1]) and not np.any(drawn[0] == drawn[2])


def test_get_strategy_takes_one_device(nb, monkeypatch):
    assert len(tf.config.list_logical_devices()) == 2
    assert nb.get_strategy() is tf.distribute.get_strategy()  # the default

    def make_strategy(tpu_cluster_resolver, experimental_device_assignment):
        return tpu_cluster_resolver, experimental_device_assignment.core_assignment

    cores = [[[x, y, 0, core] for x in (0, 1) for y in (0, 1) for core in (0, 1)]]
    tpus = {"local": tf.tpu.experimental.Topology(None, [2, 2, 1, 2], cores)}
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", str)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", tpus.get)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", make_strategy)
    for kind in ("TPU", "TPU_SYSTEM"):
        devices = [types.SimpleNamespace(name=f"/device:{a}:0") for a in ("CPU", kind)]
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda a=devices: a)
        resolver, assignment = nb.get_strategy()
        assert resolver == "local" and assignment.shape[:2] == (1, 1)
