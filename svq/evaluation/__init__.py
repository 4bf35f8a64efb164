"""Measurements of a network itself: errors on a development list, identification, operations, milliseconds.

Measures of given scores are in svq/backend; tables and pages are with the features that show them.
"""
