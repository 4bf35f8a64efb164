"""A trained network compressed to so many bytes: what steps/compress.sh does besides the steps of recipes."""
