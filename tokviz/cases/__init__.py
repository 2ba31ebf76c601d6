"""Data sets as cases: files and layouts, how answers are judged. Reads text only: no torch, no image is decoded here."""

from __future__ import annotations

from .case import METRICS, Case, Metric, Problem
from .judging_stub import judge
from .case_file import CaseFile, open_cases

__all__ = ["METRICS", "Case", "CaseFile", "Metric", "Problem", "open_cases"]
