"""Affinity distillation: a student's similarities against a teacher's (MosRep, ICLR 2023, Eq. 10 as printed).

Legend: R rows, P columns, D embedding.
"""

import torch.nn.functional as F
from torch import Tensor

from smalti.precision import similarity


def affinity_loss(
    student: Tensor, teacher: Tensor, columns: Tensor, student_temperature: float, teacher_temperature: float
) -> Tensor:
    """-sum_k softmax_k(t.c_k / tau_T) log softmax_k(s.c_k / tau_S), for every row; one of the two sums of Eq. 10.

    Args:
        student: (R, D), s, length 1.
        teacher: (R, D), t, length 1; the teacher's embeddings of the same rows.
        columns: (P, D), c, length 1; the teacher's too.
        student_temperature: tau_S > 0.
        teacher_temperature: tau_T > 0.

    Returns:
        (R,) losses, with gradients for the student alone.

    Example:
        >>> student, teacher, texts = (F.normalize(torch.randn(count, 8), dim=1) for count in (4, 4, 6))
        >>> tuple(affinity_loss(student, teacher, texts, 0.1, 0.1).shape)
        (4,)
    """
    columns = columns.detach()
    target = F.softmax(similarity(teacher.detach(), columns) / teacher_temperature, dim=1)
    found = F.log_softmax(similarity(student, columns) / student_temperature, dim=1)
    return -(target * found).sum(dim=1)
