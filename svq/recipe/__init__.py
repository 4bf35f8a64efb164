"""A recipe before it runs: names of systems, their settings resolved, and every check that needs no data. No torch, no numpy."""
