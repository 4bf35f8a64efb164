"""Workers of the command line, one for each verb: a worker parses its options, calls the library, and writes whole files
or none.

Code that two workers share belongs to a folder below; nothing but the command line imports from here.
"""
