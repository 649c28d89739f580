"""The kernels written in Triton run in its interpreter here: no test needs a GPU.

Triton asks for this variable when it is imported, which is therefore after this. On a machine with
a GPU, TRITON_INTERPRET=0 runs the kernels' tests there.
"""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")
