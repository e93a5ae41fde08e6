"""Which explanation to believe: protocols that can fail, controls, tables with intervals."""

from __future__ import annotations

from .asking import Ask, logits_of, retrieval, zero_shot
from .attack import MaskedAttack, drawn_targets
from .blank_out import BlankOut, Pairwise
from .choice import ABLATIONS, Method, all_methods
from .controls import CONTROLS, controls, edge_map, first_layer_columns, random_map, randomised
from .intervals import Estimate, paired
from .localisation import MaskFromRelevance, PointingAtPieces, PointingGame, Segmentation
from .parts import Blur, Colour, Patches, Regions, Words
from .perturbation import VQA_STEPS, DeletionInsertion, Perturbation
from .precision import DetectionPrecision, Detections, average_precision
from .records import Experiment, columns, records, tabulate
from .run import run
from .specificity import ClassSpecificity
from .study import Asked, Batch, Study, Test, columns_of
from .table import Entry, Table
from .tests import (
    AgreementTest,
    AttackTest,
    BlankOutTest,
    DeletionInsertionTest,
    PerturbationTest,
    PiecePointingTest,
    PointingTest,
    SegmentationTest,
    SpecificityTest,
)

__all__ = [
    "ABLATIONS",
    "CONTROLS",
    "VQA_STEPS",
    "AgreementTest",
    "Ask",
    "Asked",
    "AttackTest",
    "Batch",
    "BlankOut",
    "BlankOutTest",
    "Blur",
    "ClassSpecificity",
    "Colour",
    "DeletionInsertion",
    "DeletionInsertionTest",
    "DetectionPrecision",
    "Detections",
    "Entry",
    "Estimate",
    "Experiment",
    "MaskFromRelevance",
    "MaskedAttack",
    "Method",
    "Pairwise",
    "Patches",
    "Perturbation",
    "PerturbationTest",
    "PiecePointingTest",
    "PointingAtPieces",
    "PointingGame",
    "PointingTest",
    "Regions",
    "Segmentation",
    "SegmentationTest",
    "SpecificityTest",
    "Study",
    "Table",
    "Test",
    "Words",
    "all_methods",
    "average_precision",
    "columns",
    "columns_of",
    "controls",
    "drawn_targets",
    "edge_map",
    "first_layer_columns",
    "logits_of",
    "paired",
    "random_map",
    "randomised",
    "records",
    "retrieval",
    "run",
    "tabulate",
    "zero_shot",
]
