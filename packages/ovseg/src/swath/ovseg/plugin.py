"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.ovseg.cards:CARDS",)
datasets = ("swath.ovseg.datasets:DATASETS",)
configs = ("swath.ovseg.configs",)
commands = {"ovseg": "swath.ovseg.cli:app"}
command_help = {"ovseg": "Open-vocabulary models in detectron2."}
preparers = ("swath.ovseg.cli:landdiscover",)
demos = {"ovseg": "swath.ovseg.demo:run"}
