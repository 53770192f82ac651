"""Figures and a page on one run or several side by side, made from the run folders alone."""

from raystage.report.build import build_report

__all__ = ["build_report"]
