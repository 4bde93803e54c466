"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

models = ("swath.moe.cards:CARDS",)
configs = ("swath.moe.configs",)
commands = {"moe": "swath.moe.cli:app"}
command_help = {"moe": "Work on trained models of several tasks."}
demos = {"moe": "swath.moe.demo:run"}
