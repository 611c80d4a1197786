"""Stage five: uncertainty of tokens and sequences, of ensembles and of Dirichlet students."""

from seqdistill.uncertainty.dirichlet import UncertaintyMeasures, dirichlet_uncertainty
from seqdistill.uncertainty.measures import MEASURES, Measure

__all__ = ["MEASURES", "Measure", "UncertaintyMeasures", "dirichlet_uncertainty"]
