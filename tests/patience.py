"""How long tests wait for what must come. Only one that fails waits for so long, however busy the machine is."""

PATIENCE_S = 120.0
