"""The menu of preference losses, by what they learn from.

pairs, held to a reference     dpo · ipo · hinge-norm · r-dpo · dpop · wpo · exo · nca · apo · f-dpo · dpo-ties
  compared within a step       aot · beta-dpo
pairs, without a reference     simpo · orpo · cpo · slic
labelled completions           kto · bco
rankings                       plackett-luce

and what makes pairs of completions that were sampled and scored: best-against-worst
"""

from __future__ import annotations

from truing.plugins import hookimpl
from truing.stage import AnySpec
from truing_preference.menu_others import Bco, BestAgainstWorst, Kto, PlackettLuce
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
    """Preference losses."""
    with_reference = [Dpo, Ipo, HingeNorm, RDpo, Dpop, Wpo, Exo, Nca, Apo, FDpo, DpoTies]
    return [*with_reference, Aot, BetaDpo, SimPo, Orpo, Cpo, Slic, Kto, Bco, PlackettLuce, BestAgainstWorst]
