"""A data set the notebook has never seen: the same calls with other arguments."""

import numpy as np
import pytest


@pytest.mark.parametrize(
    ("shape", "loss_name", "settings"),
    [
        # As Fashion-MNIST: grey 28 x 28.
        ((28, 28, 1), "compute_loss", dict(latent_dim=2, hidden_units=(16,))),
        # Colour, another size, three times smaller in each of three convolutions.
        (
            (27, 27, 3),
            "compute_mmd_loss",
            dict(latent_dim=4, strides=3, num_convolutions=3),
        ),
    ],
)
def test_new_data_set_runs_through_all_functions(nb, rng, shape, loss_name, settings):
    raw = rng.integers(0, 256, size=(130, *shape), dtype=np.uint8)
    labels = rng.integers(0, 4, size=130)
    images = nb.preprocess_images(raw)
    model = nb.CVAE(shape[0], num_channels=shape[2], filters=4, **settings)
    history = nb.main_train_loop(
        model,
        nb.make_dataset(images[:96], 32, training=True),
        nb.make_dataset(images[96:], 16),
        epochs=1,
        loss_fn=getattr(nb, loss_name),
    )
    assert np.isfinite(history.history["val_loss"]).all()
    encodings = nb.get_allClass_encodings(model, images, labels)
    assert sum(map(len, encodings.values())) == 130
    nb.plot_latent_space(encodings, ["coat", "bag", "boot", "shirt"])
    frames = nb.walk_src_to_dst(model, encodings, 0, 3, steps=4)
    assert frames.shape == (4, *shape)
    split = images[:96], labels[:96], images[96:], labels[96:]
    measures = nb.measure_model(model, *split, history) | nb.measure_mmd(model, images)
    assert all(np.isfinite(value) for value, _ in measures.values())
