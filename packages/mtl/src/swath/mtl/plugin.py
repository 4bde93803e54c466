"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.mtl.cards:CARDS",)
configs = ("swath.mtl.configs",)
demos = {"mtl": "swath.mtl.demo:run"}
