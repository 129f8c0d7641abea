"""Results for the eye: pages, figures, galleries and tables.

Renders plain dicts and arrays; knows no network and no training.
"""
