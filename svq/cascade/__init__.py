"""A cascade of systems of rising precision: each trial is settled by the cheapest that is sure of it."""
