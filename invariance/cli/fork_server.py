"""A process that has imported what the jobs of a sweep need, and becomes each of them by forking.

To import Lightning, torchvision and what they bring takes several times as long as a small job.
`invariance.launch.forks` starts this module as `python -m` and asks it over a socket; a question and its answer are a
line of JSON each.

It computes nothing: no thread runs when it forks, and no GPU was touched, so that a job is to itself, and to its
libraries, as if it had been started whole.
"""

import gc
import importlib
import json
import os
import runpy
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from invariance.cli.command import find_plugins, function_of
from invariance.runs.origin import checkout_here
from invariance.runs.processes import adopt_orphans, fork_under
from invariance.runs.surroundings import settle
from invariance.settings.files import conf_dir

_MEASURING = ("invariance.engine.fit", "invariance.training.classifier")
LATER = {
    "train": ("invariance.experiments.training",),
    "measure": _MEASURING,
    "distance": _MEASURING,
    "finetune": ("invariance.experiments.finetuning",),
}
"""What a command imports only when it finds that there is something to do."""

_BY_NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Without it torch asks the driver whether there is a GPU, and a process that asked it cannot be forked."""

_MATPLOTLIB = "MPLCONFIGDIR"
"""Where matplotlib writes: it sets this to a folder that it makes where it may write nowhere else."""

_TASKS = Path("/proc/self/task")


def main() -> None:
    """The process: `python -m invariance.cli.fork_server DESCRIPTOR PARENT COMMAND`."""
    descriptor, parent, page = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    fork, before = fork_under(parent), dict(os.environ)
    with socket.socket(fileno=descriptor) as connection:
        adopt_orphans(True)
        answer(connection, {"unfit": import_for(page)})
        job = serve(connection, fork)
    if job is None:
        if (made := os.environ.get(_MATPLOTLIB, "")) != before.get(_MATPLOTLIB, ""):
            shutil.rmtree(made, ignore_errors=True)  # which matplotlib would do at an end in order
        os._exit(0)  # to give back all that was imported takes a while
    become(job, {name: value for name, value in os.environ.items() if before.get(name) != value})


def import_for(page: str) -> str:
    """Import what a command's jobs need.

    Args:
        page: the command.

    Returns:
        Why this process is not fit to be forked; nothing if it is.
    """
    settle()  # as a command does before libraries look
    given = os.environ.get(_BY_NVML)
    os.environ[_BY_NVML] = "1"
    try:
        find_plugins()
        function_of(f"invariance.experiments.{page}:{page}")
        for module in LATER.get(page, ()):
            importlib.import_module(module)
        checkout_here()  # of the code that is imported now, whatever stands there when a job ends
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            compose(page, overrides=["progress=false"])  # Hydra's parsers keep what they learn of its grammar
    except Exception as error:  # whatever a library raises: a job that is started whole says it better
        return f"{type(error).__name__}: {error}"
    finally:
        del os.environ[_BY_NVML]
        if given is not None:
            os.environ[_BY_NVML] = given
    gc.collect()
    gc.freeze()  # a collection in a job would copy all pages that jobs share
    return unfit()


def unfit() -> str:
    """Why this process cannot be forked: a library has touched a GPU, or runs threads; nothing if it can."""
    if os.path.basename(os.environ.get(_MATPLOTLIB, "")).startswith("matplotlib-"):
        return "matplotlib may write nowhere in the home folder, and has made a folder that goes with the first job"
    for stream in (sys.stdout, sys.stderr):  # what is left in them would be printed by every job
        stream.flush()
    torch: Any = sys.modules.get("torch")
    # the fork also ends the threads that OpenBLAS keeps, which wait for work and are begun anew where there is some
    if (trial := os.fork()) == 0:
        os._exit(bool(torch is not None and (torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork())))
    if os.waitpid(trial, 0)[1]:
        return "a library uses a GPU as soon as it is imported"
    threads = sorted((task / "comm").read_text().strip() for task in _TASKS.iterdir())
    return f"a library runs threads as soon as it is imported ({', '.join(threads)})" if len(threads) > 1 else ""


def answer(connection: socket.socket, said: dict[str, Any]) -> None:
    """Send a line."""
    connection.sendall(json.dumps(said).encode() + b"\n")


def serve(connection: socket.socket, fork: Callable[[], int]) -> dict[str, Any] | None:
    """Answer questions until nobody asks.

    Args:
        connection: to the launcher.
        fork: see `fork_under`.

    Returns:
        In a process that was forked, the job that it is; None in this one.
    """
    statuses: dict[int, int | None] = {}
    with connection.makefile("rb") as questions:
        for line in questions:
            question = json.loads(line)
            reap(statuses)
            number = question.get("process")
            match question["ask"]:
                case "start":
                    try:
                        process = fork()
                    except OSError as error:
                        answer(connection, {"errno": error.errno})
                        continue
                    if process == 0:
                        job: dict[str, Any] = question
                        return job
                    statuses[process] = None
                    answer(connection, {"process": process})
                case "poll":
                    answer(connection, {"status": statuses[number]})
                case "signal":
                    if statuses[number] is None:  # one that was waited for may have another's number by now
                        os.kill(number, question["signal"])
                    answer(connection, {})
    return None


def reap(statuses: dict[int, int | None]) -> None:
    """Wait for the processes that have ended: jobs, and what jobs have left behind.

    Args:
        statuses: of all jobs; an answer can be lost with an interruption of the launcher, which then asks again.
    """
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] in statuses:
                statuses[ended[0]] = os.waitstatus_to_exitcode(ended[1])


def become(job: dict[str, Any], added: dict[str, str]) -> None:
    """Run a job's command, as `python -m` does; what ends it ends this process, which was forked for it.

    Args:
        job: its module, arguments, environment and log.
        added: variables that libraries have set while they were imported.
    """
    for path, flags, numbers in ((os.devnull, os.O_RDONLY, (0,)), (job["log"], os.O_WRONLY, (1, 2))):
        opened = os.open(path, flags)
        for number in numbers:
            os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(job["environment"] | added)
    np.random.seed()  # noqa: NPY002 - from the system, as at a start: no job is to draw what another draws
    sys.argv[1:] = job["arguments"]
    runpy.run_module(job["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
