"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.ovseg.cards:CARDS",)
