"""The paper's method and its parts, judged on features of the frozen teacher's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from D24FADLib.benchmark.features import Features, TeacherBlocks, student_inputs
from D24FADLib.benchmark.judgement import Judgement, for_each_shot, on_eval_grid, size_of
from D24FADLib.network.model import D24FADModel, residual, weighted_supports

Weighting = Literal["learned", "uniform"]


class StudentMethod:
    """The student's residual between query and weighted supports: the paper's map.

    weighting "uniform" takes learn-to-weight out: every support counts 1 / K.
    """

    def __init__(
        self, name: str, encoder: TeacherBlocks, model: D24FADModel, weighting: Weighting = "learned"
    ) -> None:
        self.name = name
        self.encoder = encoder
        self.model = model.eval()
        self.weighting = weighting
        self._decoded: tuple[Features, list[Tensor]] | None = None  # every draw asks for the same queries

    @torch.inference_mode()
    def student(self, features: Features) -> list[Tensor]:
        """Student features at strides 4, 8, 16."""
        return list(self.model.student(student_inputs(features, self.encoder.size)[1]))

    @torch.inference_mode()
    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]:
        if self._decoded is None or self._decoded[0] is not query:
            self._decoded = query, self.student(query)
        decoded = self._decoded[1]

        def against(chosen: Features) -> Judgement:
            if self.weighting == "learned":
                weights = self.model.weighting(decoded, chosen)
            else:
                count = len(chosen[0])
                weights = torch.full((len(decoded[0]), len(decoded), count), 1.0 / count)
            maps = on_eval_grid(residual(decoded, weighted_supports(chosen, weights)))
            return Judgement(maps, weights.mean(1).numpy())

        return for_each_shot(shots, self.student(supports), against)

    @torch.inference_mode()
    def state_bytes(self, supports: Features) -> int:
        return _trained_bytes(self.model) + size_of(self.student(supports))


class TeacherStudentMethod:
    """The residual between the query's teacher and student features alone (RD4AD): supports play no part."""

    def __init__(self, name: str, encoder: TeacherBlocks, model: D24FADModel) -> None:
        self.name = name
        self.encoder = encoder
        self.model = model.eval()

    @torch.inference_mode()
    def judge(self, query: Features, supports: Features, shots: Sequence[int]) -> dict[int, Judgement]:
        features, embedding = student_inputs(query, self.encoder.size)
        judged = Judgement(on_eval_grid(residual(features, self.model.student(embedding))))
        return dict.fromkeys(shots, judged)

    def state_bytes(self, supports: Features) -> int:
        return _trained_bytes(self.model)


def _trained_bytes(model: D24FADModel) -> int:
    return size_of([*model.student.state_dict().values(), *model.weighting.state_dict().values()])
