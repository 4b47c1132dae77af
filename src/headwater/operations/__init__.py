"""Tracked operations: what a third party does for us in its own time, started, polled and recorded durably.

An operation is three tables and three queues of its app; all that happens is a delivery of one of the queues.

    app/name            a record per operation (`Tracked`), key (subject, id), written at transitions only: its changes
                        are the events. Ended records stay.
    app/name-open       where each open operation stands (`Progress`), key subject: so a subject has one at most. Its
                        changes are no events. The index "due" holds nothing but open operations.
    app/name-contracts  a row (`ContractChange`) for each kind of unexpected answer while it lasts, with a count.
    app/name-calls      one live message for each open operation that waits for a start, a poll or a cancellation
    app/name-deadlines  one message for each operation, delayed until it is overdue
    app/name-notices    the beginning and end of contract changes, which become alarms

Identity: the id of an operation is also the idempotency key of all its starts. States: requested → started → pending →
completed | failed | cancelled; in_doubt when nobody but a person can tell whether it was started.

Guarantee: each commit that leaves an operation open puts its next message into the queue and names it by a token in
`Progress`; a message with another token is acknowledged without effect. So no operation is lost, and none is called
twice by what came too late. Before a start a commit of its own notes that the third party may know of it from now on.
A crash after that calls again with the same key (`idempotent=True`) or ends in_doubt. Calls happen outside of any
commit; the answer is kept while the commit that notes it meets conflicts.
"""
