"""The console: pages over the admin API, for people who look after a server.

`application.make_console` is an ASGI application of its own, served at an address of its own. What it shows comes from
the operations that the command line calls too (`house.House`), what it does goes through them. Each screen is a module
in `screens`: it declares its addresses and loads what its template shows. Pages are complete without scripts;
`static/live.js` keeps them fresh: it listens to one stream (`stream.py`) and fetches what has changed anew.
"""
