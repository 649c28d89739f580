"""What runs first in a child process: tie its life to the launcher's, then become the program.

    python -m text_generation_launcher.tether LAUNCHER_PID MODULE [ARGUMENT ...]

calls `MODULE.main()`. The kernel sends the child SIGKILL when the launcher dies, however it dies:
no shard keeps a GPU and no router keeps a port after their supervisor is gone. This is done here
and not between fork and exec, where Python code must not run beside other threads.
"""

import ctypes
import importlib
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tie_to_parent(parent_pid: int) -> None:
    """Die with the process `parent_pid`; exit at once if it is dead already."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(f"the launcher (process {parent_pid}) is gone")


def main() -> None:
    parent_pid, module, *arguments = sys.argv[1:]
    tie_to_parent(int(parent_pid))
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


if __name__ == "__main__":
    main()
