"""Jobs forked from one process that has imported what they need (`invariance.cli.fork_server`)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from invariance.launch.jobs import LOOK_EVERY, Job, Process, environment_of, start
from invariance.runs.processes import adopt_orphans, uninterrupted
from invariance.runs.sweep import JOB_VARIABLE, SWEEP_VARIABLE

_PATIENCE = 60.0
"""Seconds for an answer, which takes milliseconds."""

_WITH_SERVER = (130, -signal.SIGTERM)
"""How jobs end with the process that they came from: in order, and before they heed signals."""

_LATE = {JOB_VARIABLE, SWEEP_VARIABLE, "CUDA_VISIBLE_DEVICES"}
"""Variables that nothing reads while it is imported: jobs may differ in these from the process that they come from."""


class Forks:
    """Starts jobs from one process that has imported what they need; a context manager, in which jobs run.

    Each job is a process of its own all the same, with its own session, log and environment: it is killed, limited and
    interrupted alone. Where that process cannot be had, or is lost, jobs are started as whole commands, which is said.

    Args:
        page: the command that the jobs run.
        environment: variables that all jobs have, and libraries read while they are imported.
        log: file for what libraries print while they are imported; absent if they print nothing.
    """

    def __init__(self, page: str, environment: Mapping[str, str], log: Path) -> None:
        self.page, self.log = page, log
        self._environment = {**environment_of(environment), **dict.fromkeys(_LATE, "")}
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._heard = b""

    def __enter__(self) -> Self:
        """Wait until all is imported."""
        if sys.platform != "linux":
            print("each job imports its libraries itself: they are shared on Linux alone", flush=True)
            return self
        adopt_orphans(True)  # if that process is killed, its jobs are waited for here
        try:
            self._begin()
            why = str(self._hear()["unfit"])
        except OSError as error:
            why = self._lose() or str(error)
        except BaseException:
            self.__exit__()
            raise
        if why:
            self._lose()
            print(f"each job imports its libraries itself, for they cannot be shared: {why}", flush=True)
        return self

    def __exit__(self, *_: object) -> None:
        """End the process that jobs come from."""
        self._lose()
        if sys.platform == "linux":
            adopt_orphans(False)
        if self.log.exists() and not self.log.stat().st_size:
            self.log.unlink()

    def start(self, job: Job, environment: Mapping[str, str]) -> Process:
        """Start a job, as `invariance.launch.jobs.start` does."""
        whole = {**environment_of(job.environment), **environment}
        alike = {name for name, _ in whole.items() ^ self._environment.items()} <= _LATE
        if not alike or list(job.command[:2]) != [sys.executable, "-m"]:
            return start(job, environment)
        module, *arguments = job.command[2:]
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.write_bytes(b"")  # which fails here if it does
        question = {"module": module, "arguments": arguments, "environment": whole, "log": str(job.log)}
        answer = self.ask("start", **question)
        if answer is None:
            return start(job, environment)
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]))
        return Forked(self, answer["process"], lambda: start(job, environment))

    def ask(self, ask: str, **question: Any) -> dict[str, Any] | None:  # noqa: ANN401
        """Ask the process that jobs come from; None if it is lost: its jobs are told to end, and ours."""
        if self._connection is None:
            return None
        try:
            with uninterrupted():
                self._connection.settimeout(_PATIENCE)
                self._connection.sendall(json.dumps({"ask": ask, **question}).encode() + b"\n")
                return self._hear()
        except OSError as error:
            why = self._lose() or str(error)
            print(f"the process that jobs came from is lost ({why}): its jobs end, and begin again whole", flush=True)
            return None

    def _begin(self) -> None:
        """Start the process."""
        here, there = socket.socketpair()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._connection = here
        with there, open(self.log, "wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "invariance.cli.fork_server", str(there.fileno()), str(os.getpid()), self.page],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in self._environment.items() if name not in _LATE},
                pass_fds=[there.fileno()],
                start_new_session=True,
            )

    def _hear(self) -> dict[str, Any]:
        """An answer.

        Raises:
            OSError: if none comes.
        """
        assert self._connection is not None
        while b"\n" not in self._heard:
            if not (more := self._connection.recv(1 << 16)):
                raise OSError("it has ended")
            self._heard += more
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _lose(self) -> str:
        """Do without the process from now on; why it ended, if it did so by itself."""
        server, self._server = self._server, None
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if server is None:
            return ""
        try:
            status = server.wait(1.0)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            return ""
        said = self.log.read_text(encoding="utf-8", errors="replace").split("\n") if status else []
        return [f"it ended with status {status}", *filter(None, said)][-1] if status else ""


class Forked:
    """A job's process that was forked, to be waited for as one of `subprocess`.

    If the process that it came from is lost, and it ends for that, it is begun again as a whole command.

    Args:
        forks: what started it.
        pid: its id.
        begin_whole: starts its job as a whole command.
    """

    def __init__(self, forks: Forks, pid: int, begin_whole: Callable[[], Process]) -> None:
        self.pid = pid
        self._forks, self._begin_whole = forks, begin_whole
        self._whole: Process | None = None
        self._status: int | None = None
        self._told = False

    def poll(self) -> int | None:
        """Its status, negative for a signal that killed it; None while it runs."""
        if self._whole is not None:
            return self._whole.poll()
        if self._status is None:
            answer = self._forks.ask("poll", process=self.pid)
            self._status = self._of_orphan() if answer is None else answer["status"]
            if answer is None and self._status in _WITH_SERVER and not self._told:
                with uninterrupted():
                    self._whole = self._begin_whole()
                self.pid, self._status = self._whole.pid, None
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: if it has not come after `timeout` seconds.
        """
        over = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if over is not None and time.monotonic() >= over:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
            time.sleep(LOOK_EVERY)
        return status

    def terminate(self) -> None:
        """Tell it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        self._told = True
        if self.poll() is None and self._forks.ask("signal", process=self.pid, signal=number) is None:
            os.kill(self.pid, number)  # a child of ours that was not waited for

    def _of_orphan(self) -> int | None:
        """Its status, where the process that it came from is lost."""
        try:
            process, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:  # it ended in the moment before, and nobody knows how: as if for that
            return -signal.SIGTERM
        return os.waitstatus_to_exitcode(status) if process else None
