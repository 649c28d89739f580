"""The kernels written in Triton run in its interpreter here: no test needs a GPU.

Triton asks for this variable when it is imported, which is therefore after this. On a machine with
a GPU, TRITON_INTERPRET=0 runs the kernels' tests there.

Examples that hypothesis tries may take their time: a busy machine is no fault of the code.
"""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("TRITON_INTERPRET", "1")
settings.register_profile(
    "untimed", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")
