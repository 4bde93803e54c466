"""What this package adds to Swath, as frozen data; see `swath.core.plugins`."""

configs = ("swath.pretrain.configs",)
datasets = ("swath.pretrain.data:RS4P1M",)
preparers = ("swath.pretrain.rs4p.cli:rs4p",)
demos = {"pretrain": "swath.pretrain.demo:run"}
commands = {"pretrain": "swath.pretrain.cli:app"}
command_help = {"pretrain": "Pass on what pre-training has made."}
