"""Drawing: figures, tables and pages in one style, out of plain values.

What a figure or a page shows is decided by the feature that owns it; nothing here knows one.
"""
