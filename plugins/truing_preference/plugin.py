"""The menu of preference losses, by what they learn from.

pairs, held to a reference     dpo · ipo · hinge-norm · r-dpo · dpop · wpo · exo · nca · apo · f-dpo · dpo-ties
  compared within a step       aot · beta-dpo
pairs, without a reference     simpo · orpo · cpo · slic
labelled completions           kto · bco
rankings                       plackett-luce

completions while they are sampled

  pairs of them                best-against-worst, for every loss on pairs; with an opponent's xpo
  against an opponent          nash-md, an advantage and the loss that learns from it
"""

from __future__ import annotations

from truing.plugins import hookimpl
from truing.stage import AnySpec
from truing_preference.menu_online import BestAgainstWorst, NashAdvantage, NashMd, Xpo
from truing_preference.menu_others import Bco, Kto, PlackettLuce
from truing_preference.menu_pairs import (
    Aot,
    Apo,
    BetaDpo,
    Cpo,
    Dpo,
    Dpop,
    DpoTies,
    Exo,
    FDpo,
    HingeNorm,
    Ipo,
    Nca,
    Orpo,
    RDpo,
    SimPo,
    Slic,
    Wpo,
)


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Preference losses, and what makes pairs and advantages for them."""
    with_reference = [Dpo, Ipo, HingeNorm, RDpo, Dpop, Wpo, Exo, Nca, Apo, FDpo, DpoTies]
    without = [SimPo, Orpo, Cpo, Slic, Kto, Bco, PlackettLuce]
    return [*with_reference, Aot, BetaDpo, *without, Xpo, NashMd, BestAgainstWorst, NashAdvantage]
