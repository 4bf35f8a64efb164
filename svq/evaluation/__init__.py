"""Measurements of a network itself: errors on a development list, identification, operations, milliseconds.

Measures of given scores are in svq/backend. Tables and pages are beside the features that they show.
"""
