"""How a GPU computes, as far as torch keeps it in switches that are there without one."""

import os

import pytest
import torch

from invariance.device import full_float32, gpu_room, training_arithmetic
from invariance.errors import UserError

GPU, CPU = torch.device("cuda"), torch.device("cpu")
READERS = {
    "old convolutions": lambda: torch.backends.cudnn.allow_tf32,
    "old products": lambda: torch.backends.cuda.matmul.allow_tf32,
    "old name of products": torch.get_float32_matmul_precision,
    "all on a GPU": lambda: torch.backends.cudnn.fp32_precision,
    "convolutions": lambda: torch.backends.cudnn.conv.fp32_precision,
    "recurrence": lambda: torch.backends.cudnn.rnn.fp32_precision,
    "products": lambda: torch.backends.cuda.matmul.fp32_precision,
    "the host's products": lambda: torch.backends.mkldnn.matmul.fp32_precision,
    "everything": lambda: torch.backends.fp32_precision,
    "benchmark": lambda: torch.backends.cudnn.benchmark,
    "deterministic": lambda: torch.backends.cudnn.deterministic,
    "algorithms": torch.are_deterministic_algorithms_enabled,
    "workspace": lambda: os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
}


def switches():
    read = {}
    for name, reader in READERS.items():
        try:
            read[name] = reader()
        except RuntimeError:  # torch's: the old name and the new one are at odds
            read[name] = "at odds"
    return read


def of_conv(precision):
    torch.backends.cudnn.conv.fp32_precision = precision


def of_products(precision):
    torch.backends.cuda.matmul.fp32_precision = precision


def of_everything(precision):
    torch.backends.fp32_precision = precision


def of_cudnn(allowed):
    torch.backends.cudnn.allow_tf32 = allowed


USERS = {
    "nothing": [],
    "the new name alone": [(of_conv, "ieee")],
    "the old names": [(torch.set_float32_matmul_precision, "high"), (of_cudnn, False)],
    "both, at odds": [(torch.set_float32_matmul_precision, "medium"), (of_products, "ieee"), (of_conv, "ieee")],
    "everything": [(of_everything, "tf32")],
}


@pytest.fixture
def given(request):
    """What a user has set before, put back after the test."""
    for switch, value in USERS[request.param]:
        switch(value)
    yield switches()
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    for one in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.cudnn):
        one.fp32_precision = "none"


@pytest.mark.parametrize("given", USERS, indirect=True)
def test_in_full_float32_every_switch_can_be_read_under_both_names_and_all_come_back(given):
    with full_float32(GPU):
        within = switches()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            assert not torch.backends.cudnn.allow_tf32
        again = switches()
    assert "at odds" not in within.values() and within == again
    assert not within["old convolutions"] and not within["old products"] and within["old name of products"] == "highest"
    assert {within[name] for name in ("convolutions", "recurrence", "products")} == {"ieee"}
    assert switches() == given


@pytest.mark.parametrize("given", ["nothing", "both, at odds"], indirect=True)
@pytest.mark.parametrize(
    ("precision", "deterministic", "convolutions"),
    [("32-true", False, "ieee"), ("bf16-mixed", True, "ieee"), ("tf32", False, "tf32")],
)
def test_training_takes_tf32_where_it_is_called_so_alone(given, precision, deterministic, convolutions):
    with pytest.raises(KeyError), training_arithmetic(GPU, precision, deterministic):
        within = switches()
        raise KeyError
    assert "at odds" not in within.values() and within["convolutions"] == convolutions
    assert within["products"] == "ieee"
    assert within["benchmark"] is not deterministic
    assert within["deterministic"] is within["algorithms"] is deterministic
    assert (within["workspace"] == ":4096:8") is deterministic
    assert switches() == given


def test_an_operation_that_has_no_deterministic_algorithm_is_named():
    values = torch.zeros(3)
    with training_arithmetic(GPU, "32-true", False):
        values.put_(torch.tensor([1]), torch.ones(1))
    said = "trainer.deterministic=true: put_ of this network has no deterministic algorithm"
    with pytest.raises(UserError, match=said), training_arithmetic(GPU, "32-true", True):
        values.put_(torch.tensor([1]), torch.ones(1))


def test_on_a_cpu_nothing_is_switched():
    before = switches()
    with full_float32(CPU), training_arithmetic(CPU, "tf32", True):
        assert switches() == before


@pytest.mark.parametrize(("share", "room"), [("", 50.0), ("1", 50.0), ("0.5", 37.0), ("0.25", 12.0)])
def test_jobs_that_share_a_gpu_take_no_more_than_their_share_of_it(monkeypatch, share, room):
    monkeypatch.setenv("INVARIANCE_GPU_SHARE", share)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (50, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 13)
    assert gpu_room(torch.device("cuda")) == room
    for wrong in ("abc", "0", "-1", "1.5", "nan"):
        monkeypatch.setenv("INVARIANCE_GPU_SHARE", wrong)
        with pytest.raises(UserError, match=f"INVARIANCE_GPU_SHARE={wrong}: give a share of a GPU"):
            gpu_room(torch.device("cuda"))
