"""How apps are laid out on AWS, as pure data: names, shapes of resources, items, ways of events. No SDK, no I/O.

The engine, the functions and what is deployed all follow this one description.
"""
