"""The shares of one machine in which the jobs of a sweep run side by side."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from invariance.errors import UserError

MOST_SLOTS = 4096
"""Slots, or cores of one, beyond what any machine has."""

GPU_SHARE_VARIABLE = "INVARIANCE_GPU_SHARE"
"""As `invariance.device` has it, which imports torch: Hydra's launchers import this module for every --help."""


@dataclass(frozen=True)
class Slot:
    """A share of the machine for one job at a time.

    Attributes:
        name: how it is called in messages.
        environment: variables by which a job sees only this share.
    """

    name: str
    environment: Mapping[str, str]


def slots_of(
    gpus: object, slots: object, cores: object, count_gpus: Callable[[], int], per_gpu: object = 1
) -> list[Slot]:
    """The slots of this machine: `per_gpu` a GPU, or, where none is used, one for every `cores` CPU cores.

    The first slots of all GPUs come before the second ones: a few jobs have a GPU each.

    Args:
        gpus: numbers of the GPUs to use, or how many; None for all, [] for none.
        slots: how many where no GPU is used; None for as many as the cores allow.
        cores: CPU cores of a slot where no GPU is used.
        count_gpus: how many GPUs this process sees.
        per_gpu: jobs at once on each GPU.

    Raises:
        UserError: for GPUs that are not there, or numbers that make no sense.
    """
    counted = isinstance(gpus, int) and not isinstance(gpus, bool) and gpus > 0
    if gpus is not None and not isinstance(gpus, list) and not counted:
        raise UserError(
            f"hydra.launcher.gpus={gpus!r}: give how many, or a list of numbers, as [0,1]; [] for none, null for all"
        )
    for key, value in (("slots", slots), ("cores", cores), ("per_gpu", per_gpu)):
        absent = value is None and key == "slots"
        if not absent and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_SLOTS):
            raise UserError(f"hydra.launcher.{key}={value!r}: give a whole number from 1 to {MOST_SLOTS}")
    there = count_gpus() if gpus != [] else 0
    if isinstance(gpus, int) and gpus > there:
        raise UserError(f"hydra.launcher.gpus={gpus}: this machine has {there} GPUs")
    chosen = list(range(there)) if gpus is None else list(range(gpus)) if isinstance(gpus, int) else gpus
    assert isinstance(chosen, list)
    for gpu in chosen:
        if isinstance(gpu, bool) or not isinstance(gpu, int) or not 0 <= gpu < there:
            raise UserError(f"hydra.launcher.gpus={gpus}: this machine has {there} GPUs, numbered from 0; no {gpu!r}")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"hydra.launcher.gpus={gpus}: a GPU is named twice")
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert isinstance(cores, int) and isinstance(per_gpu, int)
    if chosen:
        if slots is not None:
            raise UserError(
                f"hydra.launcher.slots={slots}: with GPUs there are hydra.launcher.per_gpu={per_gpu} slots on each; "
                "choose them with gpus= and per_gpu="
            )
        return _on_gpus(chosen, per_gpu, max(1, mine // (len(chosen) * per_gpu)))
    if per_gpu > 1:
        raise UserError(f"hydra.launcher.per_gpu={per_gpu}: no GPU is used; choose how many jobs with slots=")
    count = slots if isinstance(slots, int) else max(1, mine // cores)
    return [Slot(f"slot {k}", {"CUDA_VISIBLE_DEVICES": "", **threads(cores)}) for k in range(count)]


def _on_gpus(gpus: Sequence[int], per_gpu: int, cores: int) -> list[Slot]:
    """The slots on GPUs.

    Args:
        gpus: their numbers.
        per_gpu: slots on each.
        cores: CPU cores of a slot.
    """
    seen = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
    share = {GPU_SHARE_VARIABLE: str(1 / per_gpu)} if per_gpu > 1 else {}
    return [
        Slot(
            f"GPU {gpu} ({k} of {per_gpu})" if per_gpu > 1 else f"GPU {gpu}",
            {"CUDA_VISIBLE_DEVICES": seen[gpu] if seen else str(gpu), **share, **threads(cores)},
        )
        for k in range(1, per_gpu + 1)
        for gpu in gpus
    ]


def shown_slots(slots: Sequence[Slot]) -> str:
    """Slots in words: "slot 0", "4 × slot", "2 × GPU", "4 slots on 2 × GPU"."""
    if len(slots) == 1:
        return slots[0].name
    kind, places = slots[0].name.split()[0], {slot.name.partition(" (")[0] for slot in slots}
    each = f"{len(slots)} slots on " if len(places) < len(slots) else ""
    return f"{each}{len(places)} × {kind}"


def threads(cores: int | str) -> dict[str, str]:
    """Variables by which a job keeps to its CPU cores; by itself inductor compiles with one process for each there is.

    Args:
        cores: how many.
    """
    compiling = os.environ.get("TORCHINDUCTOR_COMPILE_THREADS") or str(cores)
    return {"OMP_NUM_THREADS": str(cores), "TORCHINDUCTOR_COMPILE_THREADS": compiling}
