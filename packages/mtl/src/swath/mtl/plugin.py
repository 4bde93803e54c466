"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.mtl.cards:CARDS",)
configs = ("swath.mtl.configs",)
preparers = ("swath.mtl.cli:potsdam_irrg", "swath.mtl.cli:resisc45")
commands = {"mtl": "swath.mtl.cli:app"}
command_help = {"mtl": "Put Potsdam's tiles together again."}
demos = {"mtl": "swath.mtl.demo:run"}
