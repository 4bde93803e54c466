"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.refseg.cards:CARDS",)
configs = ("swath.refseg.configs",)
