"""A case as the driver opens it: what is computed, on which mesh, and what the phase `step` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moecheck.mesh import Mesh


class Unsupported(Exception):
    """A case that the subject refuses. Refuse loudly; never run it as something else."""


@dataclass(frozen=True)
class CheckpointNames:
    """How the family names its tensors; {e} is the expert."""

    router: str
    gate: str
    up: str
    down: str
    attention: str


@dataclass(frozen=True)
class Activation:
    """act = c * sigmoid(alpha * c) * (clamp(up, -limit, limit) + up_shift) with c = min(gate, limit)."""

    alpha: float
    limit: float
    """math.inf for none."""
    up_shift: float

    @property
    def is_silu(self) -> bool:
        return self == SILU

    @staticmethod
    def from_open(activation: Mapping[str, Any]) -> Activation:
        limit = activation["limit"]
        return Activation(float(activation["alpha"]), math.inf if limit is None else float(limit), float(activation["up_shift"]))


SILU = Activation(1.0, math.inf, 0.0)


@dataclass(frozen=True)
class ModelSpec:
    family: str
    num_experts: int
    top_k: int
    d_model: int
    d_ff: int
    softmax: str
    """before_topk, after_topk, or sigmoid: scores are each logit's sigmoid, in fp32, and the top-k is taken of them."""
    renormalise: bool
    """The K scores are divided by their sum."""
    routed_scale: float
    """The scores are multiplied with it at last."""
    activation: Activation
    names: CheckpointNames

    @property
    def gate_up_rows(self) -> int:
        return 2 * self.d_ff


@dataclass(frozen=True)
class Training:
    steps: int
    microbatches: int
    optimizer: str
    learning_rate: float
    lr_decay: float
    momentum: float
    weight_decay: float
    clip_norm: float

    beta1 = 0.9
    beta2 = 0.999
    eps = 1e-8


@dataclass(frozen=True)
class LocalExperts:
    first: int
    count: int


@dataclass(frozen=True)
class Case:
    impl: str
    experts_backend: str
    device: str
    model: ModelSpec
    mesh: Mesh
    dtype: str
    seed: int
    values: str
    routing: str
    tokens: tuple[int, ...]
    tokens_over: str
    expert_tp: str
    apply_scores: str
    recompute: bool
    training: Training
    phases: tuple[str, ...]
    knobs: Mapping[str, str]
    """Every knob with its text, also those that have no field here."""

    def has_phase(self, phase: str) -> bool:
        return phase in self.phases

    @property
    def torch_dtype(self) -> Any:
        from moecheck.dtypes import torch_dtype

        return torch_dtype(self.dtype)

    def shards_tokens(self, dim: str) -> bool:
        return self.mesh.size(dim) > 1 and dim in self.tokens_over.split(",")

    def _tokens_before(self, shard: int) -> int:
        return sum(self.tokens[i % len(self.tokens)] for i in range(shard))

    def num_tokens(self, rank: int) -> int:
        """T of the token shard that `rank` holds."""
        return self.tokens[self.mesh.coordinate(rank, self.tokens_over) % len(self.tokens)]

    def first_token(self, rank: int) -> int:
        return self._tokens_before(self.mesh.coordinate(rank, self.tokens_over))

    @property
    def total_tokens(self) -> int:
        return self._tokens_before(self.mesh.size(self.tokens_over))

    @property
    def expert_dims(self) -> str:
        """Mesh dimensions that the experts are spread over."""
        return "ep,tp" if self.expert_tp == "one" and self.mesh.size("tp") > 1 else "ep"

    def local_experts(self, rank: int) -> LocalExperts:
        """The experts that the mesh gives a rank: contiguous, by its coordinate."""
        count = -(-self.model.num_experts // self.mesh.size(self.expert_dims))
        first = min(self.mesh.coordinate(rank, self.expert_dims) * count, self.model.num_experts)
        return LocalExperts(first, min(count, self.model.num_experts - first))

    def param_shape(self, tap: str) -> list[int]:
        """Global shape of param/*."""
        m = self.model
        return {"param/attention/w_DD": [m.d_model, m.d_model], "param/router/w_ED": [m.num_experts, m.d_model],
                "param/experts/gate_up_EGD": [m.num_experts, m.gate_up_rows, m.d_model],
                "param/experts/down_EDF": [m.num_experts, m.d_model, m.d_ff]}[tap]

    @staticmethod
    def from_open(config: Mapping[str, str], model: Mapping[str, Any]) -> Case:
        """Errors: KeyError, ValueError for a request of another protocol."""
        names = CheckpointNames(**model["checkpoint"])
        spec = ModelSpec(model["family"], model["experts"], model["top_k"], model["d_model"], model["d_ff"],
                         model["softmax"], model["renormalise"], float(model["routed_scale"]),
                         Activation.from_open(model["activation"]), names)
        training = Training(int(config["steps"]), int(config["microbatches"]), config["optimizer"], float(config["lr"]),
                            float(config["lr_decay"]), float(config["momentum"]), float(config["weight_decay"]),
                            float(config["clip_norm"]))
        return Case(impl=config["impl"], experts_backend=config["experts_backend"], device=config["device"], model=spec,
                    mesh=Mesh.parse(config["mesh"]), dtype=config["dtype"], seed=int(config["seed"]), values=config["values"],
                    routing=config["routing"], tokens=tuple(int(n) for n in config["tokens"].split(",")),
                    tokens_over=config["tokens_over"], expert_tp=config["expert_tp"], apply_scores=config["apply_scores"],
                    recompute=config["recompute"] == "true", training=training, phases=tuple(config["phases"].split(",")),
                    knobs=dict(config))
