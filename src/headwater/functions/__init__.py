"""What runs inside AWS Lambda: one module a kind of function, each with `handle(event, context)` as its entry point.

`home` opens the store and binds the apps once for each execution environment; `decoding` reads the events of AWS.
Functions that serve no HTTP do not import it.
"""
