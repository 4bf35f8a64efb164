"""A network runs on the device that it is loaded for."""

import numpy as np

from svq.deploy.runtimes import load_embedder
from svq.models import save_model
from svq.network import ModelConfig
from tests.simulated_device import simulated_device


def test_as_on_the_cpu(tmp_path):
    config = ModelConfig("FCStudent", {"width": 8}, 6)
    save_model(tmp_path, config.build().eval(), config)
    feats = np.random.default_rng(0).standard_normal((2, 30, config.front_end.num_mels)).astype(np.float32)
    wanted = load_embedder(tmp_path).features(feats)
    with simulated_device():
        found = load_embedder(tmp_path, device="meta").features(feats)
    assert np.allclose(found, wanted, atol=1e-6)
