"""Reports of a recipe: its results, read from score files, as tables, figures and pages.

Pages of an analysis, a cascade or a search are with these; how anything is drawn is in svq/draw.
"""
