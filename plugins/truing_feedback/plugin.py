"""The menu of feedback from models."""

from __future__ import annotations

from truing.plugins import hookimpl
from truing.stage import AnySpec
from truing_feedback.menu_distill import Distill, OwnOrGiven
from truing_feedback.menu_manners import MANNERS
from truing_feedback.menu_revise import CritiqueRevise


@hookimpl
def truing_specs() -> list[type[AnySpec]]:
    """Generators made of generators, the loss of a student, and a world in which a rule checks a constitution."""
    return [CritiqueRevise, OwnOrGiven, Distill, *MANNERS]
