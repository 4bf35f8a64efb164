"""Workers of the command line, one a verb: each parses its options, calls the library, and writes whole files or none.

What two workers share belongs to a folder below; nothing but the command line imports from here.
"""
