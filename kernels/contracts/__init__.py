"""The nouns: problem records, and the protocols of surrogates and estimators, one family a file."""

from kernels.axes import Draws, Paths, Positions, Times, Vectors
from kernels.contracts.eigenproblem import Eigenproblem, SpectralSketch
from kernels.contracts.fixed_point import FixedPoint, State
from kernels.contracts.operator import LinearOperator, Matvec
from kernels.contracts.semilinear import (
    NORMAL_FLOP,
    Cost,
    Driver,
    Estimator,
    HessianForm,
    Jet,
    Known,
    Linearisable,
    LocalDriver,
    LocalDriverFactory,
    PointwiseField,
    ProfileJet,
    Reference,
    SemilinearPDE,
    Solution,
    Surrogate,
    Terminal,
    ValueAndGradient,
    require_dim,
)
from kernels.contracts.trace import Compression, Trace
from kernels.contracts.training import Batch, Fitted, Searching
from kernels.laws import BrownianMotion, GeometricBrownianMotion, ItoDiffusion, Law
from kernels.point_samplers import (
    PointSampler,
    along_paths,
    uniform_ball,
    uniform_box,
    uniform_box_boundary,
    uniform_sphere,
)
from kernels.streams import Purpose, Stream

__all__ = [
    "NORMAL_FLOP",
    "Batch",
    "BrownianMotion",
    "Compression",
    "Cost",
    "Draws",
    "Driver",
    "Eigenproblem",
    "Estimator",
    "Fitted",
    "FixedPoint",
    "GeometricBrownianMotion",
    "HessianForm",
    "ItoDiffusion",
    "Jet",
    "Known",
    "Law",
    "LinearOperator",
    "Linearisable",
    "LocalDriver",
    "LocalDriverFactory",
    "Matvec",
    "Paths",
    "PointSampler",
    "PointwiseField",
    "Positions",
    "ProfileJet",
    "Purpose",
    "Reference",
    "Searching",
    "SemilinearPDE",
    "Solution",
    "SpectralSketch",
    "State",
    "Stream",
    "Surrogate",
    "Terminal",
    "Times",
    "Trace",
    "ValueAndGradient",
    "Vectors",
    "along_paths",
    "require_dim",
    "uniform_ball",
    "uniform_box",
    "uniform_box_boundary",
    "uniform_sphere",
]
