"""Subjects of moecheck in Python: parallel MoE layers that the driver runs, watches and judges.

    import moecheck

    @moecheck.subject(name="mine", mesh_dims=["ep"], dtypes=["fp32", "bf16"])
    def make(case, ctx): ...      # returns a module

    moecheck.main()

Importable without torch; running a subject needs it.
"""

from moecheck.case import Case, LocalExperts, ModelSpec, Training, Unsupported
from moecheck.context import Context
from moecheck.inputs import Generator
from moecheck.mesh import Cut, Mesh
from moecheck.protocol import main
from moecheck.registry import subject
from moecheck.testing import assert_layer

__version__ = "0.1.0"
__all__ = ["Case", "Context", "Cut", "Generator", "LocalExperts", "Mesh", "ModelSpec", "Training", "Unsupported", "assert_layer", "main",
           "subject"]
