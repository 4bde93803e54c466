"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.refseg.cards:CARDS",)
datasets = ("swath.refseg.datasets:DATASETS",)
configs = ("swath.refseg.configs",)
commands = {"refseg": "swath.refseg.cli:app"}
command_help = {"refseg": "Referring segmentation: judge, convert, build data sets of sentences."}
demos = {"refseg": "swath.refseg.demo:run"}
