"""Affinity distillation: a student's similarities against a teacher's (MosRep, ICLR 2023, Eq. 10 as printed).

Legend: R rows, P columns, D embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def affinity_loss(
    student: Tensor, teacher: Tensor, columns: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """-sum_k softmax_k(t.c_k / tau_T) log softmax_k(s.c_k / tau_S), for every row; one of the two sums of Eq. 10.

    Args:
        student: (R, D), s, length 1.
        teacher: (R, D), t, length 1; what the teacher says of the same rows.
        columns: (P, D), c, length 1; of the teacher too.
        student_temperature: tau_S > 0.
        teacher_temperature: tau_T > 0.

    Returns:
        (R,) losses, which carry gradients to the student alone.
    """
    # Divided by a small temperature, a similarity rounded to 8 bits would move the loss in its second digit.
    with torch.autocast(student.device.type, enabled=False):
        columns = columns.detach()
        target = F.softmax(teacher.detach() @ columns.T / teacher_temperature, dim=1)
        found = F.log_softmax(student @ columns.T / student_temperature, dim=1)
    return -(target * found).sum(dim=1)
