"""Memory that a job asks of SLURM: what its command holds, and the files that it reads again and again.

A job's memory bounds the pages of files that the kernel keeps for it, too. Training reads all of its images in every
epoch: where they do not stay in memory, they are read from the disk every time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invariance.errors import UserError
from invariance.launch.slurm_states import ask

BESIDE = 16
"""GB of a job beside what its command's `memory_gb` bounds: libraries, the network, workers that read images."""

AGAIN_AND_AGAIN = ("train", "finetune")
"""Commands that read all of their images in every epoch."""

MANIFEST = "manifest.json"
"""As `invariance.data.manifest` has it, which takes a second to import: Hydra imports this module for every --help."""

_GIB = 1 << 30
_OF_NODE = 0.95
"""Part of a node's memory that jobs can have; clusters keep some for the system."""


def read_again(page: str, prepared: Path, data: str | None) -> int:
    """Bytes of prepared images that a job reads again and again: those of the largest set that it can mean.

    Args:
        page: its command.
        prepared: the folder of prepared data.
        data: the data set's name; None where networks say it.
    """
    if page not in AGAIN_AND_AGAIN:
        return 0
    folders = [manifest.parent for manifest in prepared.glob(f"{data or '*'}/*/{MANIFEST}")]
    return max((sum(file.stat().st_size for file in folder.glob("*.npy")) for folder in folders), default=0)


def memory_of(settings: Mapping[str, Any], memory_gb: float | None, images: int = 0) -> int:
    """Memory that a job asks of SLURM, in GB.

    As set; else `BESIDE`, what its command is allowed to hold, and `images`, these as far as the job's share of a node
    goes: a node's memory by its GPUs, times the GPUs of a job, or by CPUs where a job has no GPU. To ask for more would
    leave GPUs idle.

    Args:
        settings: those of `conf/hydra/launcher/slurm.yaml`.
        memory_gb: the command's own bound, where it has one.
        images: bytes that the job reads again and again.

    Raises:
        UserError: if less is asked for than the command may hold.
    """
    asked, held = settings["mem_gb"], 0 if memory_gb is None else math.ceil(memory_gb)
    if asked is not None and asked < held:
        raise UserError(
            f"hydra.launcher.mem_gb={asked}: memory_gb={memory_gb:g} lets a job hold more than that; give a smaller "
            f"memory_gb, or leave mem_gb out, which asks for {held + BESIDE} and room for images"
        )
    if asked is not None:
        return int(asked)
    least = held + BESIDE
    return max(least, min(least + math.ceil(images / _GIB), share_of_node(settings, least) if images else 0))


def share_of_node(settings: Mapping[str, Any], least: int) -> int:
    """GB of a node that belong to one job by its GPUs or CPUs: the least of the nodes that are for these jobs.

    Args:
        settings: partition, gpus_per_node and cpus_per_task; without a partition, the nodes are those of the default.
        least: GB that a job needs; a node whose share is less is not for these jobs, nor is one with fewer GPUs.

    Returns:
        0 if no node is, or SLURM does not say.
    """
    partition = settings.get("partition")
    only = [f"--partition={partition}"] if partition else []
    told = ask("sinfo", "--noheader", "--Node", "--format=%P|%m|%c|%G", *only) or ""
    gpus, shares = settings["gpus_per_node"] or 0, []
    for name, megabytes, cpus, resources in re.findall(r"^(.*?)\|(\d+)\+?\|(\d+)\+?\|(.*)$", told, flags=re.MULTILINE):
        if not partition and not name.endswith("*"):
            continue
        there = sum(int(number) for number in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", resources))
        whole, part = (there, gpus) if gpus else (int(cpus), settings["cpus_per_task"] or 1)
        share = math.floor(_OF_NODE * int(megabytes) / 1024 * part / whole) if whole >= part else 0
        if share >= least:
            shares.append(share)
    return min(shares, default=0)
