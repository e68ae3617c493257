"""A template of processes: it imports once what takes seconds to import, and copies itself for each process that needs it.

``python -m kernel_sweep._template FILE``, whose standard input is a listening socket, imports those of ``_HEAVY`` that the file needs; not
the file itself, which may begin with CUDA, and with that no copy of a process can go on. Each process of ``_process.py`` asks for a copy
that does its task with its streams, its environment and its folder, and ends as that ends. Where there is no template, since the file
needs none of these, an import began with CUDA all the same, or something went wrong here, a process does its task by itself.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import re
import selectors
import signal
import socket
import struct
import sys
import traceback
from pathlib import Path

# What shows that a file's processes need it, and what is imported then: it is known to be copied well. What Triton and Helion import
# with the first kernel that they compile is among it, since every copy would.
_TRITON = ["triton", "triton.compiler.code_generator", "triton.experimental.gluon", "kernel_sweep._triton"]
_HEAVY = {
    r"^[ \t]*(import|from)[ \t]+torch\b": ["torch"],
    r"\bTritonFamily\b": _TRITON,
    r"\bHelionFamily\b": [
        "torch",
        *_TRITON,
        "helion",
        "helion.autotuner.config_generation",
        "helion._compiler.device_ir",
        "helion._compiler.reduction_strategy",
        "helion._compiler.tile_dispatch",
        "helion._compiler.epilogue_subtiling",
        "helion._compiler.static_loop_unroller",
        "torch.export._trace",
        "sympy.tensor.tensor",
        "kernel_sweep._helion",
    ],
}
_STARTED = b"+"
_LENGTH, _STATUS, _PEER = "=I", "=i", "=3i"
# A process that asks writes all that it has to say at once.
_PATIENCE_SECONDS = 10.0


def end_with_parent():
    """The end of the process that started this one ends it too, even where it hangs or is stopped."""
    _PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))


def _is_ours(peer):
    _, user, _ = struct.unpack(_PEER, peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_PEER)))
    return user == os.getuid()


def ask(name, task):
    """Has a copy of the template of that name do a task; returns its exit code, or ends as it ended. None where there is no template: then
    nothing was done."""
    with socket.socket(socket.AF_UNIX) as template:
        try:
            template.connect(f"\0{name}")
            if not _is_ours(template):
                return None
            text = json.dumps({"task": task, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
            socket.send_fds(template, [struct.pack(_LENGTH, len(text))], [0, 1, 2])
            template.sendall(text)
            if template.recv(1) != _STARTED:
                return None
        except OSError:
            return None
        ended = template.recv(struct.calcsize(_STATUS))
    # A template that goes takes its copies along.
    status = struct.unpack(_STATUS, ended)[0] if ended else int(signal.SIGKILL)
    if os.WIFSIGNALED(status):
        ending = os.WTERMSIG(status)
        if ending != signal.SIGKILL:
            signal.signal(ending, signal.SIG_DFL)
        os.kill(os.getpid(), ending)
    return os.WEXITSTATUS(status)


class _Template:
    """What is copied for whoever asks on a socket."""

    def __init__(self, listener):
        self._listener = listener
        self._copies = set()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._start)

    def serve(self):
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _start(self):
        asking, _ = self._listener.accept()
        try:
            asking.settimeout(_PATIENCE_SECONDS)
            if not _is_ours(asking):
                raise OSError("another user asks")
            head, streams, _, _ = socket.recv_fds(asking, struct.calcsize(_LENGTH), 3)
            text = asking.makefile("rb").read(*struct.unpack(_LENGTH, head))
            request = json.loads(text)
        except (OSError, ValueError, struct.error):
            asking.close()
            return
        # Its writing end is the copy's alone: it closes with it.
        alive, living = os.pipe()
        parent = os.getpid()
        copy = os.fork()
        if copy == 0:
            self._selector.close()
            self._listener.close()
            asking.close()
            os.close(alive)
            _become(parent, streams, **request)
        os.close(living)
        for stream in streams:
            os.close(stream)
        asking.settimeout(None)
        with contextlib.suppress(OSError):
            asking.sendall(_STARTED)
        self._copies.add(copy)
        self._selector.register(asking, selectors.EVENT_READ, lambda: self._leave(asking, copy))
        self._selector.register(alive, selectors.EVENT_READ, lambda: self._end(asking, alive, copy))

    def _leave(self, asking, copy):
        """Whoever asked for a copy is gone, and wants it gone."""
        if copy in self._copies:
            self._selector.unregister(asking)
            os.kill(copy, signal.SIGKILL)

    def _end(self, asking, alive, copy):
        """A copy ended."""
        _, status = os.waitpid(copy, 0)
        self._copies.remove(copy)
        self._selector.unregister(alive)
        os.close(alive)
        with contextlib.suppress(KeyError):
            self._selector.unregister(asking)
        with contextlib.suppress(OSError):
            asking.sendall(struct.pack(_STATUS, status))
        asking.close()


def _become(template, streams, task, environment, folder):
    """This copy does its task, and ends."""
    code = 1
    try:
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
            os.close(stream)
        end_with_parent()
        if os.getppid() != template:
            return
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        from ._process import answer

        code = answer(*task)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _ask_what_is_remembered():
    """What every copy would ask once: Triton for the hash of all of its own files, some hundreds of megabytes, and torch's compiler, whose
    expressions Helion uses, for its backends."""
    for module, question in (("triton.runtime.cache", "triton_key"), ("torch._inductor.codegen.common", "init_backend_registration")):
        with contextlib.suppress(Exception):
            getattr(sys.modules[module], question)()


def _can_be_copied():
    """Whether a copy can go on: not with CUDA where an import began with it."""
    copy = os.fork()
    if copy == 0:
        torch = sys.modules.get("torch")
        is_lost = torch is not None and torch.cuda._is_in_bad_fork()
        _NOT_INITIALIZED = 3
        with contextlib.suppress(OSError):
            is_lost |= ctypes.CDLL("libcuda.so.1").cuInit(0) == _NOT_INITIALIZED
        os._exit(int(is_lost))
    return os.waitpid(copy, 0)[1] == 0


def main():
    end_with_parent()
    listener = socket.socket(fileno=os.dup(0))
    text = Path(sys.argv[1]).read_text(errors="replace")
    modules = [module for sign, needed in _HEAVY.items() if re.search(sign, text, re.MULTILINE) for module in needed]
    if not modules:
        return
    # So that asking whether there is CUDA is no beginning with it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    for module in dict.fromkeys(modules):
        # Whoever needs it will say that it is missing.
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    _ask_what_is_remembered()
    gc.freeze()
    if _can_be_copied():
        _Template(listener).serve()


if __name__ == "__main__":
    main()
