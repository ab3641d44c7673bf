"""An ensemble predicts with the mean of its networks' probabilities."""

import numpy as np
import pytest
import torch
from tiny import network, tiny

from cifar_utils.evaluation import class_activation_map, classify, compare, predict
from cifar_utils.speedrun.ensemble import Ensemble


@pytest.fixture
def members():
    return [network("SmallCNN", seed).eval() for seed in range(3)]


def test_its_probabilities_are_the_mean(members):
    test = tiny(40, "test")
    mean = np.mean([predict(model, test).probabilities for model in members], axis=0)
    found = predict(Ensemble(members), test)
    assert np.allclose(found.probabilities, mean, atol=1e-6)
    assert not np.allclose(found.probabilities, predict(members[0], test).probabilities, atol=1e-3)


def test_of_one_network_it_is_that_network(members):
    test = tiny(40, "test")
    one, alone = predict(Ensemble(members[:1]), test), predict(members[0], test)
    assert np.allclose(one.probabilities, alone.probabilities, atol=1e-6)


def test_it_stands_wherever_a_network_does(members):
    """Evaluated, compared, explained, asked about a photo; its networks are left as they were."""
    test, modes = tiny(40, "test"), [model.train().training for model in members]
    both = Ensemble(members)
    layer = [m for m in members[0].modules() if isinstance(m, torch.nn.Conv2d)][-1]
    assert compare(predict(both, test, tta=True), predict(members[0], test)).images == len(test)
    assert class_activation_map(both, test.images[:2], [0, 1], layer).shape[0] == 2
    assert sum(classify(both, test.images[0], test.classes).values()) == pytest.approx(1, abs=1e-5)
    assert [model.training for model in members] == modes


def test_of_none_it_is_refused():
    with pytest.raises(ValueError, match="at least one model"):
        Ensemble([])


def test_very_sure_networks_do_not_overflow():
    class Sure(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[300.0, -300.0]]).repeat(len(images), 1)

    assert Ensemble([Sure(), Sure()])(torch.zeros(2, 3, 32, 32)).isfinite().all()
