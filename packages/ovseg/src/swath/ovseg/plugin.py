"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.ovseg.cards:CARDS",)
datasets = ("swath.ovseg.datasets:DATASETS",)
configs = ("swath.ovseg.configs",)
commands = {"ovseg": "swath.ovseg.cli:app"}
command_help = {"ovseg": "Benchmarks and cost maps of open-vocabulary models."}
demos = {"ovseg": "swath.ovseg.demo:run"}
