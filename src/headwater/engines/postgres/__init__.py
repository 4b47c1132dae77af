"""The PostgreSQL engine: one store in one schema of a database, shared by any number of processes on any machines.

Everything that decides is in the database: leases, the catalog's revision, the versions of records. A process keeps
copies of it in memory, and every write is refused when a copy has grown old (`writer.py`). What each of the modules
does is what the module of the same name does for SQLite; `migrations/` has the schema and the functions that write.
"""
