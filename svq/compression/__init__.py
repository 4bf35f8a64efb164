"""A trained network compressed to so many bytes: what utils/compress.sh does besides the steps of recipes."""
