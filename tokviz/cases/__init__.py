"""Data sets as cases: their files and layouts, and how answers are judged. Text only: no torch, no image is decoded."""

from __future__ import annotations

from .case import METRICS, Case, Metric, Problem
from .case_file import CaseFile, open_cases
from .check import CaseReport, check_cases
from .judging import Judgement, judge
from .layouts import LAYOUTS

__all__ = [
    "LAYOUTS",
    "METRICS",
    "Case",
    "CaseFile",
    "CaseReport",
    "Judgement",
    "Metric",
    "Problem",
    "check_cases",
    "judge",
    "open_cases",
]
