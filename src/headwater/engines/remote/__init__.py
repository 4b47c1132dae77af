"""The remote engine: worker processes reach the store's owner over a local Unix socket.

`owner.py` is the owner's side, `engine.py` the worker's, `wire.py` what passes between them, `staging.py` bulk loads.

Identities: a connection is one worker process; the owner lets in processes of its own user and of root, by what the
kernel says of the peer. A lease's fencing token is the engine's: the number of the owner's opening (its epoch) above
the number of the lease, so a token of an earlier owner never fits.

States of a connection: greeted (the worker tells its version, the owner answers with its own, the features and the
catalog) → open → lost. Every message is a frame: its length in four bytes, big-endian, then one msgpack value.
Requests have numbers and are answered in any order; notices (`Cancel`, `Report`, `Hold` …) are not answered. What a
connection has besides leases ends with it, too: loads that are not flipped are given up, blobs are held no more.

Guarantee: what the owner's engine promises for a commit holds for a worker's, with the same errors. What each failure
does: when a connection is lost, commits on their way are `CommitUnknown` to the worker, and all its leases are lost.
The owner gives back at once what it held, after the commits that came before, with this receive counted: what is
handed to a worker is run at once, so for the owner it has begun when it is handed out. A worker that stops without
being gone loses each lease after the visibility time-out; its late commit is refused with `LeaseLost`. A frame that is
too large or makes no sense ends its connection.
"""
