"""The joint loss against a literal transcription of Eq. 5–7 in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from invariance.errors import UserError
from invariance.training.joint_loss import JointTerms, JointWeights, joint_terms


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal(logits, r, logits_back, r_back, r_moved, labels, l1, l2, l3):
    """Eq. 5, 6 and 7 image by image and transformation by transformation."""

    def cross_entropy(z, y):
        return -z[y] + torch.log(torch.exp(z).sum())

    n, j = len(r), len(r_back)
    plain = sum(cross_entropy(logits[i], labels[i]) for i in range(n)) / n
    equivariant = 0
    for a in range(n):
        for b in range(j):
            equivariant += (
                cross_entropy(logits_back[b, a], labels[a])
                + l1 * ((r_back[b, a] - r[a]) ** 2).sum()
                + l2 * ((r_moved[b, a] - r[a]) ** 2).sum()
            )
    return plain + l3 * equivariant / (n * j)


def case(n, j, d, k, seed):
    tensors = [
        draw(seed, n, k),
        draw(seed + 1, n, d),
        draw(seed + 2, j, n, k),
        draw(seed + 3, j, n, d),
        draw(seed + 4, j, n, d),
    ]
    return [one.requires_grad_() for one in tensors], torch.arange(n) % k


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 5), j=st.integers(1, 4), d=st.integers(1, 6), k=st.integers(2, 4), seed=st.integers(0, 99))
def test_the_loss_and_its_gradients_are_the_papers(n, j, d, k, seed):
    tensors, labels = case(n, j, d, k, seed)
    found = joint_terms(*tensors, labels).loss(JointWeights(0.7, 0.2, 0.3))
    wanted = literal(*tensors, labels, 0.7, 0.2, 0.3)
    assert float(found) == pytest.approx(float(wanted), rel=1e-12)
    for one, other in zip(torch.autograd.grad(found, tensors), torch.autograd.grad(wanted, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_no_gradient_is_stopped():
    tensors, labels = case(3, 2, 4, 3, 0)

    def loss(*tensors):
        return joint_terms(*tensors, labels).loss(JointWeights(0.5, 0.25, 0.3))

    assert torch.autograd.gradcheck(loss, tensors)
    towards = torch.autograd.grad(loss(*tensors), tensors[1])[0]
    assert float(towards.abs().min()) > 0  # φ(x) itself moves


def test_without_its_third_weight_it_is_plain_training_to_the_bit():
    tensors, labels = case(4, 2, 5, 3, 1)
    broken = [*tensors[:2], *(one * math.nan for one in tensors[2:])]
    found = joint_terms(*broken, labels).loss(JointWeights(1, 1, 0))
    assert torch.equal(found, torch.nn.functional.cross_entropy(tensors[0], labels))


def test_the_identity_alone_has_known_values():
    (logits, r, *_), labels = case(4, 1, 5, 3, 2)
    terms = joint_terms(logits, r, logits[None], r[None], r[None], labels)
    assert float(terms.recovery) == 0 and float(terms.invariance) == 0
    torch.testing.assert_close(terms.loss(JointWeights(9, 9, 0.3)), 1.3 * terms.classification)


def test_the_weights_are_the_released_codes_and_scale_with_the_features():
    assert JointWeights.of(4096) == JointWeights(25 / 4096, 12.5 / 4096, 0.3)
    assert JointWeights.of(1024).recovery == 4 * JointWeights.of(4096).recovery
    for bad in (-1, math.nan, math.inf):
        with pytest.raises(UserError, match="invariance="):
            JointWeights(1, bad)


def test_a_term_that_is_no_number_is_named_and_wrong_shapes_are_refused():
    one = torch.tensor(1.0)
    assert JointTerms(one, one, one * math.nan, one).broken() == "recovery"
    assert JointTerms(one, one, one, one).broken() == ""
    tensors, labels = case(3, 2, 4, 3, 0)
    with pytest.raises(ValueError, match="expected"):
        joint_terms(tensors[0], tensors[1], tensors[2], tensors[3][:, :2], tensors[4], labels)
