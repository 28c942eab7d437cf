"""Several scorers asked at once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from truing.fields import MEMBER_SCORES, SCORES, Batch
from truing.run import gathered
from truing.stage import Scorer


async def asked(members: Sequence[Scorer], batch: Batch) -> Tensor:
    """What each of several scorers says [seq, member], all asked at once; one that has members counts as those."""
    answers = await gathered([partial(member.score, batch) for member in members])
    said = [found[MEMBER_SCORES] if MEMBER_SCORES in found else found[SCORES][:, None] for found in answers]
    return torch.cat([part.float() for part in said], 1)
