"""Grants: what each unit of an app may do, worked out from its code (docs/grants.md).

`source` finds the syntax tree of a live function; `reading`, `calling` and `objects` tell what its expressions may be,
with the objects that its names really have; `analysis` collects the calls of resources that come to light; `units`
names the units and what their declarations grant; `inferring` puts it together.
"""

from headwater.grants.inferring import Permits, infer
from headwater.permits import Grant

__all__ = ["Grant", "Permits", "infer"]
